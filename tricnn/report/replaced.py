"""Which unfused kernels a fused one stands for."""

from __future__ import annotations

from tricnn.lower.program import Program


def replaced(fused: Program, unfused: Program) -> dict[str, tuple[int, int]]:
    """Function of ``fused`` -> launches and bytes of the same layers in ``unfused``, where each is a kernel of its own.

    Every unfused launch is counted once, so the sums are the unfused program's totals. A layer belongs to the first
    fused kernel that stores what it gives, else to the first that computes it; one that fusion did away with (a folded
    batch norm) to the kernel of the layer it reads.
    """
    home: dict[str, str] = {}
    for launch in fused.launches:  # the first launch of a kernel; a second one finishes its reduction
        for layer in launch.layers:
            home.setdefault(layer, launch.function)
    for launch in fused.launches:
        for kernel in fused.plan.kernels:
            if kernel.name == launch.kernel:
                for value in kernel.writes:
                    if value in kernel.by_name and home.get(value) != launch.function:
                        home[value] = next(x.function for x in fused.launches if x.kernel == kernel.name)
    graph, totals = unfused.plan.graph, {f.name: (0, 0) for f in fused.functions}

    def find(layer: str) -> str:
        seen: list[str] = [layer]
        for name in seen:  # breadth first, towards the input
            if name in home:
                return home[name]
            seen += [v for v in graph.by_name[name].inputs if v not in seen]
        return fused.launches[0].function

    for launch in unfused.launches:
        name = find(launch.layers[0])
        count, volume = totals[name]
        totals[name] = (count + 1, volume + unfused.launch_bytes(launch, unfused.batch))
    return totals
