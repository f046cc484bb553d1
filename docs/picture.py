"""The picture in the README: what one training step moves through memory, launch by launch, unfused and fused.

    python docs/picture.py        writes docs/picture.png

Exact figures of the plans (bf16, batch 256, sm_90, fused as by default), not measurements.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered
from tricnn.lower.program import Program

NETWORKS = ("lenet", "resnet18", "resnet50", "vgg16_bn")
BATCH = 256
COLOURS = {"convolution": "#2b6cb0", "dense": "#63b3ed", "batch norm": "#ed8936", "pointwise": "#f6e05e",
           "pooling": "#48bb78", "other": "#a0aec0"}  # fmt: skip


def family(kind: str) -> str:
    """The colour's name for a kernel's kind."""
    for start, name in (("conv2d", "convolution"), ("linear", "dense"), ("batch_stats", "batch norm"),
                        ("normalize", "batch norm"), ("merge_stats", "batch norm"), ("pointwise", "pointwise"),
                        ("max_pool", "pooling"), ("avg_pool", "pooling"), ("global_avg", "pooling")):  # fmt: skip
        if kind.startswith(start):
            return name
    return "other"


def program(name: str, fused: bool) -> Program:
    return lowered(ARCHITECTURES[name](), "train", BATCH, "bf16", "sm_90", fuse="auto" if fused else "none")


def main() -> None:
    figure, axes = plt.subplots(len(NETWORKS), 1, figsize=(10, 6.2))
    for axis, name in zip(axes, NETWORKS, strict=True):
        for row, fused in enumerate((True, False)):
            plan, left = program(name, fused), 0.0
            for launch in plan.launches:
                width = plan.launch_bytes(launch, BATCH) / BATCH / 1e6
                axis.barh(row, width, left=left, color=COLOURS[family(launch.kind)], edgecolor="white", linewidth=0.3)
                left += width
            label = f" {left:.3g} MB an image, {len(plan.launches)} launches"
            axis.text(left, row, label, va="center", fontsize=9)
            axis.set_xlim(0, left * 1.45 if not fused else None)
        axis.set_yticks([0, 1], ["fused", "unfused"])
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold", pad=2)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False, left=False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="lower center", ncol=len(COLOURS), frameon=False, fontsize=9)
    figure.suptitle("One training step: bytes through memory, each segment a kernel launch (bf16)", fontsize=11)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(Path(__file__).parent / "picture.png", dpi=130)


if __name__ == "__main__":
    main()
