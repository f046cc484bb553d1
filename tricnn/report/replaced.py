"""Which unfused kernels a fused one stands for."""

from __future__ import annotations

from collections import defaultdict

from tricnn.lower.program import Program


def replaced(fused: Program, unfused: Program) -> dict[str, tuple[int, int]]:
    """Function of ``fused`` -> launches and bytes of the same layers in ``unfused``, each a kernel of its own there."""
    totals = {f.name: (0, 0) for f in fused.functions}
    for number, (count, volume) in replaced_launches(fused, unfused).items():
        name = fused.launches[number].function
        totals[name] = totals[name][0] + count, totals[name][1] + volume
    return totals


def replaced_launches(fused: Program, unfused: Program) -> dict[int, tuple[int, int]]:
    """Number of a launch of ``fused`` -> launches and bytes of ``unfused`` that it stands for; others stand for none.

    Every unfused launch is counted once, so the sums are the unfused program's totals. A layer belongs to the first
    fused kernel that stores what it gives, else to the first that computes it; one that fusion did away with (a folded
    batch norm) to the kernel of the layer it reads.
    """
    home: dict[str, int] = {}
    firsts: dict[str, int] = {}
    for number, launch in enumerate(fused.launches):
        firsts.setdefault(launch.kernel, number)
        for layer in launch.layers:
            home.setdefault(layer, number)
    for kernel in reversed(fused.plan.kernels):  # so that the first one that stores a value has the last word
        for value in kernel.writes:
            if value in kernel.by_name:
                home[value] = firsts[kernel.name]
    graph = unfused.plan.graph
    totals: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def find(layer: str) -> int:
        seen: list[str] = [layer]
        for name in seen:  # breadth first, towards the input
            if name in home:
                return home[name]
            seen += [v for v in graph.by_name[name].inputs if v not in seen]
        return 0

    for launch in unfused.launches:
        number = find(launch.layers[0])
        count, volume = totals[number]
        totals[number] = (count + 1, volume + unfused.launch_bytes(launch, unfused.batch))
    return dict(totals)
