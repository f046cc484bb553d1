"""Tuned tiles: the file that holds them, and the numbers of every tile that may ever be in it.

A user would lose the bits of a run (another file, another sum order), or, worse, have them wrong: a tile that nobody
checked has been wrong at some shape before, in other people's compilers too.
"""

import difflib

import numpy as np
import pytest

from tests.lower.tuned_cases import boxed_edges, edges, inferred_in_boxes, trained_in_boxes
from tricnn.build.settle import plan_digest
from tricnn.check.exact import mistakes, mistakes_of, with_tile
from tricnn.check.verify import verify_model
from tricnn.compiler.pipeline import planned
from tricnn.compiler.policies import policy_named
from tricnn.emit.emit import emit
from tricnn.graphs import lenet, resnet50
from tricnn.ir import GraphBuilder, TricnnError
from tricnn.lower import boxes
from tricnn.lower import contractions as lower_contractions
from tricnn.lower.lower import lower
from tricnn.machine import candidates, tiles
from tricnn.machine import tuned_files as tuning
from tricnn.machine.candidates import CONTRACTIONS, IEEE, KINDS, NARROW, TF32, WITH_SUMS
from tricnn.machine.targets import TARGETS
from tricnn.machine.tiles import Problem, Tile
from tricnn.run.model import compile
from tricnn.run.quick_interpreter import quick_interpreter

ENTRY = tuning.Entry(Tile(64, 32, 32, 4, 2), 12.5, 20.0, "a device", "2026-01-02")


def one_convolution(mode="infer"):
    b = GraphBuilder("one")
    graph = b.build(b.conv2d(b.input("x", (20, 9, 9)), 40, 3, name="conv"))
    return planned(graph, mode, "all")


def conv_problem(batch=8):
    (choice,) = lower(one_convolution(), "bf16", batch).choices
    return choice.problem


# --- the numbers of every tile --------------------------------------------------------------------------------------


def are_exact(kind, block, dtype):
    wrong = {}
    with quick_interpreter():
        for problem, batch in edges(kind, *block, dtype):
            if count := mistakes(problem, Tile(*block, 4, 2), batch):
                wrong[f"{problem}, batch {batch}"] = count
    assert wrong == {}


def are_exact_in_boxes(kind, block, dtype, monkeypatch):
    """With three programs only, where they stay, so that each computes tile after tile."""
    monkeypatch.setattr(tiles, "programs", lambda target: 3)
    wrong = {}
    with quick_interpreter():
        for problem, batch, template, descriptors in boxed_edges(kind, *block, dtype):
            model = with_tile(problem, Tile(*block, 4, 2))
            function = model.program.functions[0]
            assert f"{template}(" in function.text, f"{problem}, {block}"
            assert sum(t.startswith("tensordesc") for _, t in function.parameters) == descriptors, f"{problem}, {block}"
            if count := mistakes_of(model, batch):
                wrong[f"{problem}, batch {batch}"] = count
    assert wrong == {}


SOME = [(16, 256, 16), (32, 32, 128), (128, 64, 64), (256, 16, 32)]


@pytest.mark.parametrize("block", SOME, ids=str)
@pytest.mark.parametrize("kind", CONTRACTIONS)
def test_tiles_that_tuning_may_choose_are_exact(kind, block):
    are_exact(kind, block, "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTRACTIONS)
def test_every_tile_that_a_file_may_name_is_exact(kind):
    """Warps and stages do not change what is computed, so blocks are all there is; fp16 runs as bf16 does."""
    for block in candidates.blocks(kind):
        are_exact(kind, block, "bf16")
    for listed, dtype in ((TF32, "tf32"), (IEEE, "fp32")):
        for block in dict.fromkeys(row[:3] for row in listed):
            are_exact(kind, block, dtype)


@pytest.mark.parametrize(
    "kind, block, dtype",
    [("conv2d", (16, 64, 16), "fp16"), ("conv2d_grad_input", (32, 32, 128), "bf16"), ("conv2d", (128, 64, 64), "bf16"),
     ("conv2d_grad_input", (64, 32, 64), "fp16"), ("conv2d_grad_weight", (128, 64, 64), "bf16")],
)  # fmt: skip
def test_tiles_that_come_in_boxes_are_exact(kind, block, dtype, monkeypatch):
    are_exact_in_boxes(kind, block, dtype, monkeypatch)


def test_the_long_steps_of_products_of_few_tiles_are_exact(monkeypatch):
    """In boxes and gathered; no file may name steps as long as those that the rule takes (`tiles.few`)."""
    are_exact_in_boxes("conv2d", (16, 32, 256), "bf16", monkeypatch)
    are_exact("conv2d_grad_input", (32, 16, 256), "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTRACTIONS)
def test_every_tile_that_a_file_may_name_is_exact_in_boxes(kind, monkeypatch):
    for block in candidates.blocks(kind):
        are_exact_in_boxes(kind, block, "bf16", monkeypatch)


def test_more_tiles_than_a_gpu_has_programs_are_exact():
    """Rows enough that some of the programs that stay compute a second tile."""
    problem = Problem.of("sm_90", "conv2d", "bf16", dict(N=4, C=24, H=1, W=1, K=16, R=1, S=1, P=1, Q=1))
    model = with_tile(problem, Tile(16, 16, 32, 4, 2))
    with quick_interpreter():
        assert "matmul_boxes(" in model.source and mistakes_of(model, 16 * tiles.programs("sm_90") + 24) == 0


def test_a_kernel_that_computes_something_else_is_not_exact(monkeypatch):
    """The check can fail: a convolution that pads one pixel less."""
    ((problem, batch), *_) = edges("conv2d", 32, 32, 32, "bf16")
    assert mistakes(problem, Tile(32, 32, 32, 4, 2), batch) == 0
    honest = lower_contractions.Call
    monkeypatch.setattr(
        lower_contractions, "Call", lambda t, p, sizes, *o: honest(t, p, {**sizes, "PT": sizes["PT"] - 1}, *o)
    )
    assert mistakes(problem, Tile(32, 32, 32, 4, 2), batch) > 0


@pytest.mark.parametrize(
    "template, constant", [("conv2d_boxes", "FIRST_W"), ("conv2d_streams", "PL"), ("matmul_boxes", "C")]
)
def test_boxes_from_somewhere_else_are_not_exact(monkeypatch, template, constant):
    """The same of boxes: eight columns aside, or eight channels fewer."""
    case = next(c for c in boxed_edges("conv2d", 32, 32, 32, "bf16") if c.template == template)
    assert mistakes(case.problem, Tile(32, 32, 32, 4, 2), case.batch) == 0
    honest = boxes.Call
    monkeypatch.setattr(
        boxes, "Call", lambda t, p, sizes, *o: honest(t, p, {**sizes, constant: sizes[constant] - 8}, *o)
    )
    assert mistakes(case.problem, Tile(32, 32, 32, 4, 2), case.batch) > 0


NETWORKS = {"train": trained_in_boxes, "infer": inferred_in_boxes}
IN_BOXES = {
    "train": {"wide": "matmul_boxes", "tall": "conv2d_streams", "left_grad_input": "matmul_boxes",
              "right_grad_input": "conv2d_streams"},
    "infer": {"narrow_bn": "matmul_boxes", "tall_bn": "conv2d_boxes", "wide_bn": "matmul_boxes",
              "first_bn_siblings": "matmul_boxes", "second_bn": "conv2d_boxes"},
}  # fmt: skip


def epilogues_are_right(mode, block):
    """Every value of the network whose products have such a tile, within the tolerances of `tricnn verify`."""
    graph, tile = NETWORKS[mode](), Tile(*block, 4, 2)
    choices = lower(compile(graph, mode, 4, "bf16", "numpy", "sm_90").plan, "bf16", 4).choices
    with tuning.only({c.problem: tile for c in choices if c.problem.kind in CONTRACTIONS}):
        model = compile(graph, mode, 4, "bf16", "triton", "sm_90")
    functions = {f.name: f.text for f in model.program.functions}
    launched = [(launch.kernel.split("_", 1)[1], functions[launch.function]) for launch in model.program.launches]
    for name, template in IN_BOXES[mode].items():
        assert any(kernel == name and f"{template}(" in text for kernel, text in launched), (name, block)
    with quick_interpreter():
        assert [c for c in verify_model(model, 3) if not c.ok] == []


@pytest.mark.parametrize("mode", NETWORKS)
def test_what_follows_a_product_in_boxes_is_right(mode):
    epilogues_are_right(mode, (64, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("mode", NETWORKS)
def test_what_follows_a_product_in_boxes_is_right_with_every_candidate(mode):
    for block in dict.fromkeys((m, min(n, 64), min(k, 64)) for m, n, k, *_ in NARROW):
        epilogues_are_right(mode, block)


@pytest.mark.parametrize("channels", [192, 160, 224])
def test_a_tile_stored_in_two_pieces_stays_within_its_channels(channels, monkeypatch):
    """The last tile of 128 of these columns has none, or few, in its second half; what lies behind them in memory are
    the channels of another branch, computed before."""
    b = GraphBuilder("beside")
    x = b.input("x", (32, 6, 5))
    right = b.relu(b.conv2d(x, 64, 3, padding=1, name="right"))
    left = b.relu(b.conv2d(x, channels, 1, name="left"))
    graph = b.build(b.linear(b.global_avg_pool(b.relu(b.concat([left, right]))), 5, name="fc"))
    monkeypatch.setattr(tiles, "pieces", lambda columns, attempt: 2 if columns >= 128 else 1)
    with tuning.only({}):
        found = lower(planned(graph, "infer", "all"), "bf16", 4, "sm_90").choices
        problem = next(c.problem for c in found if c.kernel.endswith("_left"))
    with tuning.only({problem: Tile(64, 128, 32, 4, 2)}):
        model = compile(graph, "infer", 4, "bf16", "triton", "sm_90", "all")
    text = next(f.text for f in model.program.functions if f.name.endswith("_left"))
    assert "matmul_boxes(" in text and ("PIECES=2" in text) == (channels == 224)
    with quick_interpreter():
        assert [c for c in verify_model(model, 3) if not c.ok] == []


def passes(channels):
    """A network with every pass over pixels and channels."""
    b = GraphBuilder("passes")
    x = b.input("x", (3, 9, 8))
    x = b.relu(b.batch_norm(b.conv2d(x, channels, 3, padding=1, bias=False, name="c1"), name="bn1"))
    x = b.max_pool2d(x, 3, 2, padding=1)
    left = b.sigmoid(b.avg_pool2d(b.local_response_norm(x), 3, 1, padding=1))
    right = b.batch_norm(b.conv2d(x, channels, 1, name="c2"), name="bn2")
    x = b.max_pool2d(b.concat([left, b.add_(x, right)]), 2, 2)
    return b.build(b.linear(b.flatten(x), 4, name="fc"))


def passes_are_right(channels, pick):
    """Every value of the network that has such tiles in its passes, within the tolerances of `tricnn verify`."""
    for fused in (True, False):
        plan = planned(passes(channels), "train", policy_named(fused))
        choices = lower(plan, "fp32", 4).choices
        table = {c.problem: pick(c.problem) for c in choices if c.problem.kind not in CONTRACTIONS}
        assert {p.kind for p in table} >= {"max_pool2d", "pointwise", "local_response_norm"}
        with tuning.only(table):
            model = compile(passes(channels), "train", 4, "fp32", "triton", "sm_90", fused)
            assert {c.tile for c in model.program.choices if c.problem in table} == set(table.values())
        checks = verify_model(model, 3)
        assert [c for c in checks if not c.ok] == []


@pytest.mark.parametrize("number", [0, pytest.param(-1, marks=pytest.mark.slow)])
def test_tiles_of_passes_that_tuning_may_choose_are_right(number):
    passes_are_right(12, lambda problem: candidates.candidates(problem)[number])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1 << i for i in range(9)])
def test_every_tile_of_a_pass_is_right(width):
    channels = max(1, width - width // 4)
    kinds = {
        kind: [b for b in candidates.blocks(kind) if b[1] == min(width, 128 if kind in WITH_SUMS else 256)]
        for kind in KINDS
        if kind not in CONTRACTIONS
    }
    for number in range(max(map(len, kinds.values()))):
        passes_are_right(channels, lambda p, i=number: Tile(*kinds[p.kind][i % len(kinds[p.kind])], 4, 1))


# --- which tiles are candidates -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet():
    return planned(resnet50(), "train", "all")


@pytest.mark.parametrize(
    "dtype, target", [("bf16", "sm_90"), ("tf32", "sm_80"), ("fp32", "gfx942"), ("fp16", "sm_120")]
)
def test_candidates_are_verified_fit_the_memory_and_are_no_larger_than_the_problem(resnet, dtype, target):
    room = TARGETS[target].shared_limit
    choices = lower(resnet, dtype, 256, target).choices
    assert {c.problem.kind for c in choices} >= {*CONTRACTIONS, "max_pool2d", "max_pool2d_grad"}
    for problem in {c.problem for c in choices}:
        found = candidates.candidates(problem)
        assert found and len(found) == len(set(found)) <= 22
        assert all(candidates.verified(problem.kind, tile) for tile in found)
        if problem.kind in CONTRACTIONS:
            sizes = candidates.extent(problem)
            for tile in found:
                assert (tile.m + tile.n) * tile.k * (2 if dtype in ("bf16", "fp16") else 4) * tile.stages <= room
                assert all(b < 2 * max(s, 16) for b, s in zip((tile.m, tile.n, tile.k), sizes))


def test_the_numbers_of_a_problem_are_those_of_the_layer(resnet):
    """conv1 of ResNet-50: 7x7, stride 2, 224 to 112 pixels (He et al., 2015, table 1)."""
    stem = next(c for c in lower(resnet, "bf16", 256, "sm_80").choices if c.problem.sizes.get("R") == 7)
    assert stem.problem.text == "N256 C3 H224 W224 K64 R7 S7 P112 Q112 SH2 SW2 PT3 PL3"
    assert candidates.extent(stem.problem) == (256 * 112 * 112, 64, 147)


def test_every_listed_block_may_be_named_in_a_file():
    for row in (*NARROW, *TF32, *IEEE):
        assert row[:3] in candidates.blocks("conv2d")


# --- looking up -----------------------------------------------------------------------------------------------------


def test_a_tuned_problem_gets_its_tile_and_the_others_their_rule(tmp_path, monkeypatch):
    plan, path = one_convolution(), tmp_path / "mine.toml"
    tuning.write(path, {conv_problem(8): ENTRY})
    rule = emit(lower(plan, "bf16", 8))
    with tuning.using(str(path)):
        tuned = emit(lower(plan, "bf16", 8))
        assert "BLOCK_M=64, BLOCK_N=32, BLOCK_K=32" in tuned and "BLOCK_M=64, BLOCK_N=32, BLOCK_K=32" not in rule
        assert emit(lower(plan, "bf16", 8)) == tuned  # the same file, the same kernels
        assert lower(plan, "bf16", 9).choices[0].tile == tiles.contraction(9 * 49, 40, 180, "bf16", "sm_90", tap=20)
        assert lower(plan, "fp16", 8).choices[0].tile != ENTRY.tile
        assert lower(plan, "bf16", 8, "sm_80").choices[0].tile != ENTRY.tile
        with tiles.chosen_for(tiles.INTERPRETER):  # a GPU's times say nothing about the interpreter's
            assert lower(plan, "bf16", 8).choices[0].tile != ENTRY.tile
    assert emit(lower(plan, "bf16", 8)) == rule
    monkeypatch.setenv(tuning.VARIABLE, str(path))
    assert emit(lower(plan, "bf16", 8)) == tuned


def test_a_tuned_tile_that_spills_falls_back_to_the_rule():
    plan, problem = one_convolution(), conv_problem(8)
    (rule,) = lower(plan, "bf16", 8).choices
    with tuning.only({problem: ENTRY.tile}):
        first = lower(plan, "bf16", 8).choices[0]
        second = lower(plan, "bf16", 8, forms={first.function: tiles.Form(1)}).choices[0]
        third = lower(plan, "bf16", 8, forms={first.function: tiles.Form(2)}).choices[0]
    assert first.tile == ENTRY.tile and second.tile == rule.tile
    assert third.tile == lower(plan, "bf16", 8, forms={first.function: tiles.Form(1)}).choices[0].tile


def test_what_a_build_remembers_depends_on_the_files():
    plan = one_convolution()
    keys = {plan_digest(plan, "bf16", 8, "sm_90")}
    for tile in (ENTRY.tile, Tile(32, 32, 32, 4, 2)):
        with tuning.only({conv_problem(8): tile}):
            keys.add(plan_digest(plan, "bf16", 8, "sm_90"))
    assert len(keys) == 3


# --- the file -------------------------------------------------------------------------------------------------------


def test_the_files_that_come_with_tricnn_hold_candidates_only():
    for path in tuning.FOLDER.glob("*.toml"):
        assert path.stem in TARGETS
        for problem, entry in tuning.read(path).items():
            assert problem.target == path.stem and entry.us < entry.rule_us and entry.device and entry.date
            assert entry.tile in candidates.candidates(problem)


def test_a_file_reads_back_and_one_more_entry_is_one_more_line(tmp_path):
    plan = planned(lenet(), "train", "all")
    problems = list(dict.fromkeys(c.problem for c in lower(plan, "bf16", 256).choices))
    rng = np.random.default_rng(0)
    entries = {p: tuning.Entry(candidates.candidates(p)[0], 1.5, 2.25, 'GPU "X" \\ 1', "2026-01-02") for p in problems}
    shuffled = {problems[i]: entries[problems[i]] for i in rng.permutation(len(problems))}
    tuning.write(tmp_path / "all.toml", shuffled)
    again = tuning.read(tmp_path / "all.toml")
    assert {p: e.tile for p, e in again.items()} == {p: e.tile for p, e in entries.items()}
    whole = tuning.text(entries).splitlines()
    assert tuning.text(shuffled).splitlines() == whole
    for left_out in problems[::4]:
        fewer = tuning.text({p: e for p, e in entries.items() if p != left_out}).splitlines()
        changes = [line for line in difflib.ndiff(fewer, whole) if line[0] in "+-"]
        assert [line[0] for line in changes] in (["+"], ["+"] * 3)  # with its section, if it is alone in it
        assert any(left_out.text in line for line in changes)


GOOD = '"N8 C20 H9 W9 K40 R3 S3 P7 Q7" = { m = 64, n = 32, k = 32, warps = 4, stages = 2 }'
BROKEN = {
    "not TOML": ("[sm_90.conv2d.bf16]\n" + GOOD[:-1], ["line 2"]),
    "a target nobody has": ("[sm_91.conv2d.bf16]\n" + GOOD, ["line 2", "sm_91", "sm_90"]),
    "a kind that is none": ("[sm_90.conv3d.bf16]\n" + GOOD, ["line 2", "conv3d", "conv2d_grad_input"]),
    "a dtype that is none": ("[sm_90.conv2d.fp8]\n" + GOOD, ["line 2", "fp8", "tf32"]),
    "a number that is none": ("\n[sm_90.conv2d.bf16]\n" + GOOD.replace("H9", "X9"), ["line 3", "'X9'", "WINDOW_H"]),
    "a number twice": ("[sm_90.conv2d.bf16]\n" + GOOD.replace("H9", "C9"), ["line 2", "'C9'"]),
    "a block that no test checks": ("[sm_90.conv2d.bf16]\n" + GOOD.replace("64", "96"), ["line 2", "m=96", "256"]),
    "warps of no number": ("[sm_90.conv2d.bf16]\n" + GOOD.replace("= 4", '= "4"'), ["line 2", "warps", "whole number"]),
    "a word nobody knows": ("[sm_90.conv2d.bf16]\n" + GOOD.replace("{ m", "{ o = 1, m"), ["line 2", "'o'", "stages"]),
    "a tile that is none": ('[sm_90.conv2d.bf16]\n"N8 C1" = 3', ["line 2", "3"]),
    "a line under no section": ("format = 1", ["line 1", "format", "[target.kind.dtype]"]),
    "two lines for one problem": (f"[sm_90.conv2d.bf16]\n{GOOD}\n{GOOD}", ["line 3"]),
    "a second section's line": (
        f"[sm_90.conv2d.bf16]\n{GOOD}\n[sm_90.conv2d.fp16]\n{GOOD.replace('64', '5')}",
        ["line 4", "m=5"],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_damaged_says_where_and_what_would_do(tmp_path, what):
    content, words = BROKEN[what]
    path = tmp_path / "tuned.toml"
    path.write_text(content)
    with pytest.raises(TricnnError) as caught:
        tuning.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, word in (("none", "cannot be read"), ("bytes", "UTF-8")):
        with pytest.raises(TricnnError, match=word), tuning.using(str(tmp_path / name)):
            pass


def test_a_problem_is_the_same_in_whatever_order_it_is_written():
    a = Problem.of("sm_90", "conv2d", "bf16", {"K": 2, "N": 1, "C": 3, "PT": 0})
    assert a == Problem.of("sm_90", "conv2d", "bf16", {"N": 1, "C": 3, "K": 2}) and a.text == "N1 C3 K2"
