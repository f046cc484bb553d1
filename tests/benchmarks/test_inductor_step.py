"""What PyTorch's compiler generates for a step, without a GPU: its products are the network's, its launches known.
Slow: importing that compiler (the tests do it themselves) and tracing a small network take half a minute."""

import json
from math import prod
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from tricnn.graphs import ARCHITECTURES

pytestmark = pytest.mark.slow


def test_products_are_those_of_the_network_and_every_kernel_can_be_launched() -> None:
    """2 operations for each weight and pixel, three times: the result, dx and dw; but the image's dx, which nobody
    reads. The passes of the generated kernels cover all elements."""
    from benchmarks.inductor_step import as_on_an_h100, calls_of, forms, generated, graphs

    batch, graph = 16, ARCHITECTURES["lenet"]()
    products = [n for n in graph.nodes if n.op in ("conv2d", "linear")]
    flops = [
        2 * batch * prod(graph.types[n.name].per_image[1:]) * prod(graph.types[n.inputs[1]].per_image)
        for n in products
    ]  # fmt: skip
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    traced = graphs("lenet", batch, mode)
    counted, checked = 0, 0
    with as_on_an_h100():
        for part, (module, inputs) in traced.items():
            wrapper, there = generated(module, inputs, mode, backward=part == "backward")
            calls, sources = calls_of(wrapper, there, mode)
            counted += sum(call.flops for call in calls)
            for call in calls:
                for spec, how in forms(sources[call.kernel], call.kernel) if call.kernel in sources else ():
                    numbers, block = dict(call.numbers), int(str(spec.constants["XBLOCK"]))
                    columns = block * how(call).grid[0]
                    assert columns >= numbers["xnumel"] > columns - block
                    checked += 1
    assert counted == 3 * sum(flops) - flops[0]
    assert checked >= 20


def test_a_table_adds_up_simulated_times_and_limits() -> None:
    from benchmarks.inductor_step import table

    line = {"part": "forward", "triton": True, "bytes": 3_000_000_000, "limit_us": 1000.0}
    lines = [{**line, "us": 1500.0}, line, {**line, "triton": False, "limit_us": 250.0}]
    rows = table(lines)
    assert "| forward | Triton | 2 | 6.0 | 2,500 | simulated; 1 not simulated, at their limit |" in rows
    assert rows[-1] == "| step | | 3 | 9.0 | 2,750 | |"


def test_the_documentation_has_the_record_s_sums() -> None:
    from benchmarks.inductor_step import table

    root = Path(__file__).parents[2]
    lines = [json.loads(line) for line in (root / "benchmarks" / "inductor_step.jsonl").read_text().splitlines()]
    text = (root / "docs" / "benchmarks.md").read_text()
    for row in table(lines)[2:-1]:
        _, part, by, launches, gigabytes, us, how, _ = (cell.strip() for cell in row.split("|"))
        ms = float(us.replace(",", "")) / 1000
        assert f"| PyTorch, {part}, {by} | {launches} | {gigabytes} | {ms:.1f} | {how} |" in text
