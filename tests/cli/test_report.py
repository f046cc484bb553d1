"""Figures with their units, how a table fits a terminal, and fused kernels beside the layers they replace."""

import ast
import functools
import re

import pytest
from rich.console import Console
from rich.table import Table

import tricnn
from tricnn.cli.show_command import describe
from tricnn.emit.emit import emit, launches_of
from tricnn.graphs import cifar_resnet20, inception_v3, lenet
from tricnn.lower.from_graph import lowered
from tricnn.report.figures import milliseconds, plural, scaled, size, times
from tricnn.report.fit import fitted
from tricnn.report.replaced import replaced
from tricnn.report.similar import MOST_ROWS, grouped, parts
from tricnn.report.tables import checks, counted, each_edge, edges, kernels, layers, row, simulated, table


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


@pytest.mark.parametrize("width", [70, 80, 140])
@pytest.mark.parametrize("beside", [{"k00_conv1": (3, 10_600_000)}, None])
def test_the_compile_table_fits_a_terminal(width, beside):
    """With a column for bulk copies as well, no layer is broken off its line."""
    kernel = {"name": "k00_conv1", "layers": ["conv1", "pool1", "act1"], "launches": 1, "dram_bytes": 1_000_000,
              "registers": 200, "spill_bytes": 0, "tensor_core": True, "bulk_copy": True}  # fmt: skip
    compiled = {"kernels": [kernel], "graph": "net", "target": "sm_90", "mode": "infer", "dtype": "bf16", "batch": 1,
                "launches": 1, "dram_bytes": 1, "unfused": {"launches": 3, "dram_bytes": 9_000_000}}  # fmt: skip
    text = shown(kernels(compiled, beside, width), width)
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


WIDTHS = pytest.mark.parametrize("width", [70, 80, 100, 140])


@WIDTHS
def test_verified_values_fit_and_what_fails_is_never_left_out(width):
    verified = {"graph": "net", "mode": "train", "dtype": "bf16", "batch": 3, "device": "here", "checks": CHECKS}
    text = shown(checks(verified, 40), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("FAILS") == 1 and text.count(" ok") == 11 and "5.90e-08" in text and "1.00e-09" not in text
    assert shown(checks(verified), width).count(" ok") == 59
    assert {CHECKS[5]["kernel"], CHECKS[5]["value"]} <= set(text.split()), "a name is not broken"


def shown(made, width):
    console = Console(width=width)
    made = fitted(made, console)
    with console.capture() as captured:
        console.print(made, soft_wrap=not isinstance(made, Table))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def tables_of(program, width):
    """Every table that a compiled network has, by what a user would type, with the words that have to be in it whole;
    figures that need a compiler or a GPU are made up."""
    rows = [
        {"name": f.name, "kind": own[0].kind, "layers": list(own[0].layers), "launches": len(own), "flops": 1,
         "dram_bytes": 10**9, "registers": 255, "spill_bytes": 0, "shared_bytes": 0,
         "tensor_core": True, "bulk_copy": True, "limit_us": 812.1, "simulated_us": 1234.5, "limit": "bytes",
         "share": 0.66, "waits_for": "products of matrices", "waits_share": 0.5}
        for f in program.functions if (own := launches_of(program, f))
    ]  # fmt: skip
    compiled = {"graph": "net", "target": "sm_90", "mode": "train", "dtype": "bf16", "batch": 256, "kernels": rows,
                "launches": 1, "dram_bytes": 1, "unfused": {"launches": 1, "dram_bytes": 1},
                "simulator": {"gpu": "H100 SXM"}}  # fmt: skip
    names = {r["name"] for r in rows}
    beside = dict.fromkeys(names, (123, 10**9))
    yield kernels(compiled, beside, width), names | {f"{n}," for r in rows for n in r["layers"][:-1]}
    kinds = grouped(rows, program)
    yield kernels({**compiled, "kernels": kinds}, beside, width), {r["members"][0] for r in kinds} | {"registers"}
    yield simulated(compiled), names | {"1.234"}
    moved = {"dram_bytes": 2_147_483_648, "loaded_bytes": 21_474_836_480, "read_bytes": 1}
    launches = [{"launch": name, "kind": "pointwise", "planned": moved, "counted": moved, "ok": True} for name in names]
    yield counted({"bytes": launches}), names | {"2,147,483,648", "21,474,836,480"}
    found = [
        {"producer": d.producer, "consumer": d.consumer, "fused": d.fused, "rule" if d.fused else "reason": d.text,
         "kind": d.general, "bytes_saved": 123_400_000}
        for d in program.plan.decisions
    ]  # fmt: skip
    for fused in (True, False):
        some = [e for e in found if e["fused"] == fused]
        yield edges("", some, fused), {"reason" if not fused else "rule"}
        yield each_edge("", some, fused), {e["producer"] for e in some}


@functools.cache
def long_names(prefix="", mode="train"):
    """Three layers and a pooling with Inception's names, which are the longest, in a module that holds the network."""
    b = tricnn.GraphBuilder("long")
    x, scope = b.input("x", (3, 32, 32)), f"{prefix}Mixed_7c.branch3x3dbl_3a"
    for number in range(3):
        conv = b.conv2d(x, 32, 3, padding=1, bias=False, name=f"{scope}.{number}.conv")
        x = b.relu(b.batch_norm(conv, name=f"{scope}.{number}.bn"), name=f"{scope}.{number}.relu")
    pool = b.max_pool2d(x, 2, name=f"{scope}.maxpool")
    graph = b.build(b.linear(b.flatten(pool), 10, name=f"{prefix}AuxLogits.fc"))
    return lowered(graph, mode, 2, "bf16", "sm_90", fuse="auto")


@WIDTHS
def test_every_table_has_every_name_and_figure_whole(width):
    count = 0
    for made, whole in tables_of(long_names(), width):
        text = shown(made, width)
        words = set(text.split())
        assert max(map(len, text.splitlines())) <= width and "…" not in text
        lost = {word for word in whole if word not in words and word.rstrip(",") not in words}
        assert {word for word in lost if len(word) < width - 6} == set()
        count += 1
    assert count == 8


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize(
    "prefix", ["", "model.backbone.image_encoder.feature_extractor.", "a" * 85 + "."], ids=["", "47", "86"]
)
def test_the_plan_and_the_emitted_file_fit_a_page(prefix, mode):
    """Lines of up to 120 columns, also with the longest names that a layer may have, which Python finds whole there."""
    program = long_names(prefix, mode)
    plan, text = str(program.plan), emit(program)
    assert max(map(len, [*plan.splitlines(), *text.splitlines()])) <= 120
    names = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    assert {parameter.name for parameter in program.plan.graph.parameters} <= names
    kernels = [kernel.name for kernel in program.plan.kernels]
    assert set(kernels) <= set(re.findall(r"^(\w+)\(", plan, re.MULTILINE)) and max(map(len, kernels)) <= 64
    assert all(re.fullmatch(rf"k{number:02}_\w+", name) for number, name in enumerate(kernels))


def test_what_has_no_room_beside_stands_below():
    """By the column: the name, a word below it, and the figures beside the first line that leaves them room."""
    made = table("", "kernel", "value", ">largest\nerror", "<")
    row(made, "k00", "act1", "1.0", "ok")
    row(made, "k01_a_kernel_of_a_name", "pool.index", "200", "ok")
    assert [line[1:] for line in shown(made, 30).splitlines() if line] == [
        "kernel          largest",
        "  value           error",
        "─" * 28,
        "k00                 1.0   ok",
        "  act1",
        "k01_a_kernel_of_a_name",
        "  pool.index        200   ok",
    ]


def test_a_large_network_is_shown_by_its_parts_first():
    """Blocks of ResNet-20: nine, what is before and behind them; sums and outputs are those of their layers."""
    rows = describe(cifar_resnet20(), 2, "fp32")["layers"]
    found = parts(rows)
    assert len(rows) > MOST_ROWS >= len(found) and sum(r["count"] for r in found) == len(rows)
    for key in ("parameters", "macs", "bytes"):
        assert sum(r[key] for r in found) == sum(r[key] for r in rows)
    begun = 0
    for part in found:
        own = rows[begun : (begun := begun + part["count"])]
        assert all(r["name"] == part["name"] or r["name"].startswith(part["name"] + ".") for r in own)
        assert part["output_shape"] == own[-1]["output_shape"]
    assert sum(r["count"] > 1 for r in found) == 9


@pytest.mark.parametrize("width", [30, 50, 60, 80, 140])
def test_a_table_never_cuts_a_figure_nor_breaks_a_word_inside(width):
    made = table("", "name", ">parameters", ">bytes")
    names = ["features.transition1.norm.grad_input", "Conv2d_1a_3x3.conv"]
    for name in names:
        row(made, name, "132,863,336", "1.31 MB")
    text = shown(made, width)
    assert text.count("132,863,336") == text.count("1.31 MB") == 2
    fragments = [f for f in text.split() if f[0] in "fCtng" or "_" in f]
    fragments = fragments[fragments.index("name") + 1 :]
    assert all(f in names or f[-1] in "._" or any(n.endswith(f) for n in names) for f in fragments)
    assert max(map(len, text.splitlines())) <= width and (width < 50 or fragments == names)


def test_a_table_gives_every_column_its_due():
    """The widest column that can be narrower gives way first; one that cannot keeps its width."""
    made = table("", "name", "path", ">n")
    row(made, "averyverylongunbreakablename", "a.path.of.many.parts.that.can.be.broken", "1")
    text = shown(made, 50)
    assert "averyverylongunbreakablename" in text and max(map(len, text.splitlines())) <= 50


def test_what_does_not_fit_a_line_goes_on_indented():
    made = table("", "kernel", "layers", ">n")
    row(made, "k00_conv1_and_more", "conv1, pool1, act1, pool1.max_pool2d_index", "1")
    assert [line[1:] for line in shown(made, 30).splitlines() if line][-3:] == [
        "k00_conv1_and_more         1",
        "  conv1, pool1, act1,",
        "    pool1.max_pool2d_index",
    ]


@WIDTHS
@pytest.mark.parametrize("declare", [lenet, inception_v3])
def test_the_table_of_layers_has_every_name_whole(declare, width):
    """Also Inception's, which are long: the operation stands below its layer then."""
    graph = declare()
    described = describe(graph, 1, "fp32")
    text = shown(layers(described), width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    assert {node[key] for node in described["layers"] for key in ("name", "op")} <= words
    assert f"{graph.num_parameters:,}" in words
