"""Figures with their units, how a table fits a terminal, and fused kernels beside the layers they replace."""

import re
from itertools import product

import pytest
from rich.console import Console

from tricnn.cli.show_command import describe
from tricnn.emit.emit import launches_of
from tricnn.graphs import cifar_resnet20, inception_v3, lenet
from tricnn.lower.from_graph import lowered
from tricnn.report.figures import milliseconds, plural, scaled, size, times
from tricnn.report.fit import fit
from tricnn.report.replaced import replaced
from tricnn.report.similar import grouped
from tricnn.report.tables import checks, kernels, layers, row, table


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (61_706, "61.7 k"), (138_357_544, "138 M"), (999_600, "1.00 M"),
     (15_470_264_320, "15.5 G"), (12_253_974_624, "12.3 G")],
)  # fmt: skip
def test_counts(value, text):
    assert scaled(value) == text


def test_units():
    assert (size(982), size(1_305_200), size(0)) == ("982 B", "1.31 MB", "0 B")
    assert (times(2.139), times(12.34)) == ("2.14x", "12.3x")
    assert (milliseconds(0.00123), milliseconds(0.0123), milliseconds(1.5)) == ("1.230 ms", "12.30 ms", "1,500.0 ms")


def test_counted_nouns():
    expected = "1 launch, 2 launches, 1,200 kernels, 1 epoch, 2 epochs, 3 batches, 2 classes, 2 entries, 2 ways"
    counted = [(1, "launch"), (2, "launch"), (1200, "kernel"), (1, "epoch"), (2, "epoch"), (3, "batch"), (2, "class"),
               (2, "entry"), (2, "way")]  # fmt: skip
    assert ", ".join(plural(*c) for c in counted) == expected


@pytest.mark.parametrize("declare", [lenet, cifar_resnet20])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_every_unfused_launch_is_replaced_by_one_kernel(declare, mode):
    """So that a column of the compile table sums to the unfused program's own total."""
    fused, unfused = (lowered(declare(), mode, 4, "bf16", "sm_90", fuse=fuse) for fuse in (True, False))
    found = replaced(fused, unfused)
    assert set(found) == {f.name for f in fused.functions}
    assert sum(count for count, _ in found.values()) == len(unfused.launches)
    assert sum(volume for _, volume in found.values()) == unfused.dram_bytes()


def test_a_kernel_replaces_the_layers_it_computes():
    fused, unfused = (lowered(lenet(), "infer", 4, "bf16", "sm_90", fuse=fuse) for fuse in (True, False))
    assert replaced(fused, unfused)["k00_conv1"][0] == 3  # convolution, activation, pooling


def test_the_compile_table_fits_a_terminal():
    """With a column for bulk copies as well, no layer is broken off its line."""
    kernel = {"name": "k00_conv1", "layers": ["conv1", "pool1", "act1"], "launches": 1, "dram_bytes": 1_000_000,
              "registers": 200, "spill_bytes": 0, "tensor_core": True, "bulk_copy": True}  # fmt: skip
    compiled = {"kernels": [kernel], "graph": "net", "target": "sm_90", "mode": "infer", "dtype": "bf16", "batch": 1,
                "launches": 1, "dram_bytes": 1, "unfused": {"launches": 3, "dram_bytes": 9_000_000}}  # fmt: skip
    for width, beside in product((70, 80, 140), ({"k00_conv1": (3, 10_600_000)}, None)):
        console = Console(width=width)
        with console.capture() as captured:
            console.print(kernels(compiled, beside, width))
        text = captured.get()
        assert "conv1, pool1, act1" in text and max(map(len, text.splitlines())) <= width
        assert {"registers", "spills", "bulk", "200", "0"} <= set(text.split())


def test_similar_kernels_are_one_row_and_the_totals_stay():
    """A row for each kind: sums of launches and bytes, the most registers, and how many there are."""
    program = lowered(cifar_resnet20(), "infer", 4, "bf16", "sm_90", fuse=True)
    rows = [
        {"name": f.name, "kind": launches_of(program, f)[0].kind, "layers": list(launches_of(program, f)[0].layers),
         "launches": len(launches_of(program, f)), "dram_bytes": 1000 + number, "flops": 1, "registers": number,
         "spill_bytes": 0, "shared_bytes": 0, "tensor_core": number % 2 == 0, "bulk_copy": False}
        for number, f in enumerate(program.functions)
    ]  # fmt: skip
    found = grouped(rows, program)
    assert len(found) < len(rows) and sum(g["count"] for g in found) == len(rows)
    for key in ("launches", "dram_bytes", "tensor_core"):
        assert sum(g[key] for g in found) == sum(row[key] for row in rows)
    named = [name for g in found for name in g["members"]]
    assert sorted(named) == sorted(row["name"] for row in rows)
    ops = {node.name: node.op for node in program.plan.graph.nodes}
    by_name = {row["name"]: row for row in rows}
    for g in found:
        assert len({tuple(ops[layer] for layer in by_name[name]["layers"]) for name in g["members"]}) == 1
        assert g["registers"] == max(by_name[name]["registers"] for name in g["members"])


CHECKS = [
    {"kernel": f"k{n:02d}_layer1_0_conv2_grad_weight", "value": "layer1.0.downsample.1.max_pool2d_index", "ok": n != 5,
     "error": None if n == 5 else n * 1e-9, "tolerance": 1e-6, "relative": 5e-6} for n in range(60)
]  # fmt: skip


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_verified_values_fit_and_what_fails_is_never_left_out(width):
    verified = {"graph": "net", "mode": "train", "dtype": "bf16", "batch": 3, "device": "here", "checks": CHECKS}
    text = shown(checks(verified, width, 40), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("FAILS") == 1 and text.count(" ok") == 11 and "5.90e-08" in text and "1.00e-09" not in text
    assert shown(checks(verified, width), width).count(" ok") == 59
    assert "max_pool2d_index" in text, "a name is not broken inside"


def shown(made, width):
    console = Console(width=width)
    console.width = fit(made, console)
    with console.capture() as captured:
        console.print(made)
    return captured.get()


@pytest.mark.parametrize("width", [30, 50, 60, 80, 140])
def test_a_table_never_cuts_a_figure_nor_breaks_a_word_inside(width):
    made = table("", "name", ">parameters", ">bytes")
    names = ["features.transition1.norm.grad_input", "Conv2d_1a_3x3.conv"]
    for name in names:
        row(made, name, "132,863,336", "1.31 MB")
    text = shown(made, width)
    assert text.count("132,863,336") == text.count("1.31 MB") == 2
    lines = [line.strip() for line in text.splitlines()[3:]]
    fragments = [line.split()[0] for line in lines if line]
    assert "".join(fragments) == "".join(names)
    assert all(f in names or f[-1] in "._" or any(n.endswith(f) for n in names) for f in fragments)
    assert max(map(len, text.splitlines())) <= max(width, 45) and (width < 140 or fragments == names)


def test_a_table_gives_every_column_its_due():
    """The widest column that can be narrower gives way first; one that cannot keeps its width."""
    made = table("", "name", "path", ">n")
    row(made, "averyverylongunbreakablename", "a.path.of.many.parts.that.can.be.broken", "1")
    text = shown(made, 50)
    assert "averyverylongunbreakablename" in text and max(map(len, text.splitlines())) <= 50


def test_what_is_broken_off_an_indented_line_is_indented():
    made = table("", "kernel", ">n")
    row(made, "k00\n  conv1, pool1, act1, pool1.max_pool2d_index", "1")
    lines = [line[1:].rstrip(" 1") for line in shown(made, 30).splitlines() if "_" in line or "pool" in line]
    assert len(lines) > 1 and all(re.match("  [a-z]", line) for line in lines)


@pytest.mark.parametrize("width", [70, 80, 100, 140])
@pytest.mark.parametrize("declare", [lenet, inception_v3])
def test_the_table_of_layers_has_every_name_whole(declare, width):
    """Also Inception's, which are long: the operation stands below its layer then. Below 90 columns some are broken."""
    graph = declare()
    described = describe(graph, 1, "fp32")
    text = shown(layers(described, width), width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    names = {node["name"] for node in described["layers"]} if width >= 100 or declare is lenet else set()
    assert names | {node["op"] for node in described["layers"]} <= words
    assert f"{graph.num_parameters:,}" in words
