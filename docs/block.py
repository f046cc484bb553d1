"""The picture in training-fusion.md: a bottleneck block of ResNet-50 in training, each launch a bar as long as what it
moves, before and after fusion.

    python docs/block.py          writes docs/block.png

Exact figures of the plans (bf16, batch 256), not measurements.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tricnn.graphs import resnet50
from tricnn.lower.from_graph import lowered
from tricnn.lower.program import Launch, Program

BLOCK, BATCH = "layer2.1", 256
SHORT = {"conv2d": "conv", "conv2d_grad_input": "dgrad", "conv2d_grad_weight": "wgrad", "normalize": "norm",
         "normalize_grad_input": "norm'", "normalize_grad_sums": "sums'", "batch_stats": "stats", "relu": "relu",
         "relu_grad": "relu'", "add": "add"}  # fmt: skip
COLOURS = {"conv": "#2b6cb0", "dgrad": "#2c7a7b", "wgrad": "#6b46c1"}


def operations(program: Program, launch: Launch) -> list[str]:
    """What a launch computes, in the order of its nodes; repeated ones once."""
    kernel = next(k for k in program.plan.kernels if k.name == launch.kernel)
    return list(dict.fromkeys(SHORT[n.op] for n in kernel.nodes if n.op in SHORT))


def of_block(program: Program) -> list[tuple[str, list[str], float]]:
    """(layer, operations, MB an image) of the launches that compute the block and its gradients; those that only add
    partial results belong to the launch before them."""
    found: list[tuple[str, list[str], float]] = []
    for launch in program.launches:
        anchor = next(k.anchor for k in program.plan.kernels if k.name == launch.kernel)
        size = program.launch_bytes(launch, BATCH) / BATCH / 1e6
        if not anchor.name.startswith(BLOCK + ".") or launch.kind == "sum_partials_of_many":
            continue
        if launch.kind in ("split_sum", "merge_stats") and found:
            found[-1] = (*found[-1][:2], found[-1][2] + size)
        elif operations(program, launch):
            found.append((anchor.name.removeprefix(BLOCK + "."), operations(program, launch), size))
    return found


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(12, 9), sharex=True)
    for axis, fused in zip(axes, (False, True), strict=True):
        rows = of_block(lowered(resnet50(), "train", BATCH, "bf16", "sm_90", fuse="all" if fused else "none"))
        for row, (_, computed, size) in enumerate(rows):
            heavy = next((o for o in computed if o in COLOURS), None)
            axis.barh(-row, size, color=COLOURS.get(heavy or "", "#cbd5e0"))
            axis.text(size + 0.05, -row, " + ".join(computed), va="center", fontsize=7.5)
        axis.set_yticks([-i for i in range(len(rows))], [layer for layer, *_ in rows], fontsize=7)
        title = f"{'fused (--fuse all)' if fused else 'one kernel for each operation'}: {len(rows)} kernels"
        axis.set_title(f"{title}, {sum(size for *_, size in rows):.1f} MB an image", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, 8)
        axis.margins(y=0.01)
        axis.set_xlabel("MB an image")
    figure.suptitle(f"ResNet-50, {BLOCK}: one training step, forward then backward (bf16)", fontsize=11)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "block.png", dpi=110)


if __name__ == "__main__":
    main()
