"""Each command does what its help says, for people and, with --json, for programs."""

import io
import json
import math
import re
from contextlib import redirect_stdout

import pytest

from tests.run.mutations import wrong_relu
from tricnn.cli import main
from tricnn.cli.screen import Screen
from tricnn.graphs import ARCHITECTURES
from tricnn.report import tables

COMPILED = ["graph", "mode", "batch", "dtype", "target", "launches", "dram_bytes", "flops", "peak_memory_bytes",
            "parameters", "macs_per_image", "compile_seconds", "kernels", "unfused",
            "fuse", "predicted_us", "hazards"]  # fmt: skip
KERNEL = ["name", "kind", "layers", "launches", "dram_bytes", "flops", "registers", "spill_bytes", "shared_bytes",
          "tensor_core", "bulk_copy", "hazards", "predicted_us"]  # fmt: skip
TRAINED = ["graph", "parameters", "inputs", "small_member_of", "data", "executor", "device", "seed", "epochs",
           "train_loss", "test_accuracy", "images_per_second", "state_sha256"]  # fmt: skip


@pytest.fixture(scope="module")
def architectures():
    """What ``list --json`` has of each: all networks are declared for it."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["list", "--json"]) == 0
    return json.loads(out.getvalue())["architectures"]


def test_list_has_every_architecture_with_the_published_sizes(architectures):
    assert [a["name"] for a in architectures] == list(ARCHITECTURES)
    sizes = {a["name"]: (a["parameters"], a["macs_per_image"]) for a in architectures}
    assert sizes["lenet"] == (61_706, 416_520)  # the lecture's layers, by hand
    assert sizes["resnet18"][0] == 11_689_512  # torchvision's documentation
    assert sizes["vgg19"][0] == 143_667_240


def test_show_counts_each_layer_and_the_totals(tricnn):
    shown = tricnn("show", "lenet", "--batch", 32, "--dtype", "bf16", "--json").json
    layers = {layer["name"]: layer for layer in shown["layers"]}
    assert layers["conv2"]["output_shape"] == [32, 16, 10, 10]
    assert layers["conv2"]["parameters"] == 16 * 6 * 25 + 16
    assert layers["conv2"]["macs"] == 32 * 16 * 100 * 6 * 25
    assert layers["conv2"]["bytes"] == 32 * 16 * 100 * 2
    assert sum(layer["parameters"] for layer in shown["layers"]) == shown["parameters"] == 61_706
    assert sum(layer["macs"] for layer in shown["layers"]) == shown["macs"] == 32 * shown["macs_per_image"]
    table = tricnn("show", "lenet").out
    assert "61,706" in table and "1x16x10x10" in table


def test_show_text_is_a_file_every_command_takes(tricnn, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(tricnn("show", "resnet18", "--text", "--width", "0.1", "--input", "3,32,32", "--classes", "7").out)
    again = tricnn("show", path, "--json").json
    assert again["layers"][0]["output_shape"] == [1, 3, 32, 32]
    assert again["layers"][-1]["output_shape"] == [1, 7]


def test_compile_prints_the_contract_and_writes_the_build(tricnn, tiny, tmp_path):
    out = tmp_path / "made" / "here"
    ran = tricnn("compile", tiny, "--batch", 16, "--dtype", "fp16", "--target", "sm_80", "--out", out, "--json")
    assert (ran.status, ran.err) == (0, "")
    result = ran.json
    assert list(result) == COMPILED
    assert (result["graph"], result["mode"], result["batch"]) == ("tiny", "infer", 16)
    assert (result["dtype"], result["target"]) == ("fp16", "sm_80")
    assert all(list(k) == KERNEL for k in result["kernels"])
    assert sum(k["launches"] for k in result["kernels"]) == result["launches"]
    assert sum(k["dram_bytes"] for k in result["kernels"]) == result["dram_bytes"]
    assert sum(k["flops"] for k in result["kernels"]) == result["flops"]
    assert result["launches"] < result["unfused"]["launches"]
    assert result["dram_bytes"] < result["unfused"]["dram_bytes"]
    # conv + ReLU + pooling reads the image and the weights and writes the pooled image, then the dense layer
    assert result["launches"] == 2
    x, pooled, logits = 16 * 64 * 2, 16 * 64 * 2, 16 * 10 * 2
    assert result["dram_bytes"] == (x + 36 * 2 + pooled) + (pooled + 640 * 2 + logits)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["target"] == "sm_80" and len(manifest["kernels"]) == 2
    assert compile((out / "kernels.py").read_text(), "kernels.py", "exec")
    assert len(list(out.glob("*.cubin"))) == 2 and len(list(out.glob("*.ptx"))) == 2


def test_compile_shows_layers_kernels_and_what_fusion_did(tricnn, tiny):
    table = tricnn("compile", tiny, "--batch", 16, "--dtype", "fp16", "--target", "sm_80").out
    assert "conv, pool, act" in table and "unfused" in table and "2 launches moving" in table
    alone = tricnn("compile", tiny, "--batch", 16, "--dtype", "fp16", "--target", "sm_80", "--no-fuse", "--json").json
    assert alone["launches"] == alone["unfused"]["launches"] == 4 and alone["fuse"] == "none"


def test_a_narrow_terminal_gets_a_narrow_list(capsys, monkeypatch, architectures):
    """And all of it: numbers whole, names broken behind a separator."""
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen(False)
    screen.show(tables.architectures(architectures, screen.out.width))  # as `list` does, of what it has declared
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) <= 80
    words = listed.split()
    for network in architectures:
        begin = words.index(network["name"])
        cells = words[begin + 1 : begin + 6]  # beside it, or, where it is long, below
        assert f"{network['parameters']:,}" in cells and f"{network['classes']:,}" in cells
        assert "x".join(map(str, network["input"])) in cells
    assert words[words.index("vgg11") + 1] == "132,863,336"


SHOWN = [
    "show inception_v3",
    "explain lenet --mode train",
    "compile TINY --batch 16 --dtype fp16 --target sm_80",
    "verify TINY --mode infer --count-bytes",
    "bench TINY --batch 2 --seconds 0.05",
    "tune lenet --dry-run",
]


@pytest.mark.parametrize("command", SHOWN, ids=lambda text: text.split()[0])
def test_what_is_printed_fits_whatever_the_width_and_loses_nothing(tricnn, tiny, monkeypatch, capsys, command):
    """Tables and sentences alike: no line is longer, and no figure of a wide terminal is missing on a narrow one."""
    words = [str(tiny) if word == "TINY" else word for word in command.split()]
    given, show = [], Screen.show
    for made_for, widths in (
        (70, (70, 80, 100)),
        (140, (140,)),
    ):  # below 120 columns some tables have fewer of their own
        monkeypatch.setenv("COLUMNS", str(made_for))
        monkeypatch.setattr(Screen, "show", lambda screen, *things: given.extend(things))
        given.clear()
        assert tricnn(*words).status == 0
        monkeypatch.setattr(Screen, "show", show)
        figures = []
        for width in widths:
            monkeypatch.setenv("COLUMNS", str(width))
            Screen(False).show(*given)
            out = capsys.readouterr().out
            assert len(given) > 0 and max(map(len, out.splitlines())) <= width
            figures.append(sorted(re.findall(r"\d[\d,.e+-]*", out)))
        assert all(found == figures[0] for found in figures)


def test_in_a_pipe_a_sentence_is_one_line(monkeypatch, capsys):
    """For what reads lines; where somebody says how wide they may be, they are not wider."""
    sentence = "every word of it " * 20
    monkeypatch.delenv("COLUMNS", raising=False)
    Screen(False).show(sentence)
    assert capsys.readouterr().out == sentence.rstrip() + "\n"
    monkeypatch.setenv("COLUMNS", "70")
    Screen(False).show(sentence)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 70 and " ".join(lines).split() == sentence.split()


def test_explain_gives_every_edge_a_rule_or_a_reason(tricnn):
    result = tricnn("explain", "lenet", "--mode", "train", "--batch", 4, "--json").json
    assert result["fused_edges"] == sum(e["fused"] for e in result["edges"]) > 10
    for edge in result["edges"]:
        assert edge["rule" if edge["fused"] else "reason"]
        assert (edge["bytes_saved"] > 0) == edge["fused"]
    assert result["bytes_saved"] == result["unfused"]["dram_bytes"] - result["dram_bytes"] > 0
    assert 0 < result["predicted_us"] < result["unfused"]["predicted_us"]
    edge = next(e for e in result["edges"] if (e["producer"], e["consumer"]) == ("conv1", "pool1"))
    assert edge["fused"] and edge["bytes_saved"] == 4 * 6 * 28 * 28 * 4
    text = tricnn("explain", "lenet", "--mode", "train").out
    assert "epilogue" in text and "conv1 -> pool1" in text and "not fused" in text
    plan = tricnn("explain", "lenet", "--plan").out
    assert plan.startswith("# plan of lenet: infer, fused, 5 kernels")
    assert tricnn("explain", "lenet", "--plan", "--json").json["plan"] == plan


def test_explain_prints_every_edge_or_says_how_many_it_left_out(tricnn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    network = ["explain", "cifar_resnet20", "--mode", "train", "--target", "sm_90"]
    edges = [f"{e['producer']} -> {e['consumer']}" for e in tricnn(*network, "--json").json["edges"]]
    text = tricnn(*network).out
    named = sum(len(re.findall(rf"(?<!\S){re.escape(edge)}(?![^,\s])", text)) for edge in set(edges))
    (hidden,) = re.findall(r"(\d+) edges only counted here: --all prints every one", text)
    assert named + int(hidden) == len(edges) and int(hidden) > 50
    rows = [line.strip() for line in tricnn(*network, "--all").out.splitlines()]
    assert sorted(cell for cell in (row.split("  ")[0] for row in rows) if cell in edges) == sorted(edges)


def test_explain_dumps_what_the_passes_made(tricnn, tmp_path, monkeypatch):
    """Of the plan that was asked for, not of the unfused one that it is compared with."""
    monkeypatch.setenv("TRICNN_DUMP", str(tmp_path / "dump"))
    assert tricnn("explain", "lenet").status == 0
    (dumped,) = (tmp_path / "dump").iterdir()
    names = sorted(p.name for p in dumped.iterdir())
    assert names[0] == "00-declared.txt" and names[-1].endswith("-kernels.py")
    (plan,) = dumped.glob("*-plan.txt")
    assert plan.read_text().startswith("# plan of lenet: infer, fused, 5 kernels")
    monkeypatch.setenv("TRICNN_DUMP", "/dev/null/deeper")
    assert tricnn("explain", "lenet").status == 2


def test_explain_prices_what_may_be_recomputed_and_says_what_is_stored_instead(tricnn):
    """ResNet-18 at batch 8: dgrad and wgrad of 3x3 convolutions of 256 filters would each form dz 18 times."""
    size = ["explain", "resnet18", "--mode", "train", "--batch", 8, "--dtype", "bf16", "--target", "sm_90"]
    for policy in ("auto", "all"):
        result = tricnn(*size, "--fuse", policy, "--json").json
        assert (result["fuse"], result["target"]) == (policy, "sm_90")
        stored = {s["value"] for s in result["sites"] if s["decision"] == "stored"}
        assert ("layer3.1.bn2.grad_input" in stored) == (policy == "auto")
        for site in result["sites"]:
            dearer = site["predicted_us_recomputed"] > site["predicted_us_stored"]
            assert dearer or site["value"] not in stored
            edges = [e for e in result["edges"] if e["producer"] == site["value"]]
            assert any("predicted" in e.get("reason", "") for e in edges) == (site["value"] in stored)
            assert any("predicted_us_saved" in e for e in edges) == (site["value"] not in stored)
    pairs = {tuple(s["values"]): s["in_cache"] for s in result["shared_operands"]}
    assert len(pairs) == 20 and all(pairs.values())  # of 20 convolutions and a dense layer, all but the first
    text = tricnn(*size).out
    assert "values stored to save time" in text and "predicted for sm_90" in text


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_a_policy_forces_less_fusion(tricnn, tiny, command):
    """A convolution, its pooling and its activation: one kernel, two (the activation joins the pooling), or three."""
    size = ["--batch", 16, "--dtype", "fp16", "--target", "sm_80", "--mode", "infer", "--json"]
    size += ["--seconds", 0] if command == "bench" else []
    results = [tricnn(command, tiny, *size, "--fuse", policy).json for policy in ("all", "epilogue", "none")]
    results = [r["static"]["fused"] if command == "bench" else r for r in results]
    assert [r["launches"] for r in results] == [2, 3, 4]


def test_verify_holds_every_kernel_to_its_tolerance(tricnn, tiny):
    ran = tricnn("verify", tiny, "--json")
    result = ran.json
    assert ran.status == 0 and result["ok"] and result["mode"] == "train"
    assert {c["value"] for c in result["checks"]} >= {"act", "fc.grad_weight", "conv.grad_weight", "loss"}
    for check in result["checks"]:
        assert check["ok"] and 0 <= check["error"] <= check["tolerance"] < math.inf
    assert "all within tolerance" in tricnn("verify", tiny, "--mode", "infer").out


def test_verify_counts_bytes(tricnn, tiny):
    ran = tricnn("verify", tiny, "--mode", "infer", "--count-bytes", "--json")
    plan = tricnn("compile", tiny, "--mode", "infer", "--batch", 3, "--dtype", "fp32", "--json").json
    assert ran.status == 0 and sum(c["counted"]["dram_bytes"] for c in ran.json["bytes"]) == plan["dram_bytes"]
    assert all(c["planned"] == c["counted"] and c["ok"] for c in ran.json["bytes"])
    assert all(c["counted"]["loaded_bytes"] >= c["counted"]["read_bytes"] > 0 for c in ran.json["bytes"])
    assert "just what the plan states" in tricnn("verify", tiny, "--mode", "infer", "--count-bytes").out


def test_verify_says_so_when_a_kernel_is_wrong(tricnn, tiny, monkeypatch):
    from tricnn.lower import expressions

    monkeypatch.setitem(expressions.EXPRESSIONS, "relu", wrong_relu)
    ran = tricnn("verify", tiny, "--json")
    assert ran.status == 1 and ran.json["ok"] is False and not all(c["ok"] for c in ran.json["checks"])
    ran = tricnn("verify", tiny)
    assert ran.status == 1 and "FAILS" in ran.out and "outside tolerance" in ran.out


def test_verify_takes_a_small_member_of_a_large_family(tricnn, monkeypatch):
    from tricnn.cli import verify_command

    seen = {}

    def stand_in(graph, screen, **options):
        seen.update(options, graph=graph)
        return {"ok": True, "checks": [], "kernels": 0}

    monkeypatch.setattr(verify_command, "verified", stand_in)
    result = tricnn("verify", "vgg16", "--json").json
    assert seen["graph"].num_parameters < 1e6 and seen["batch"] <= 4
    whole = {"parameters": 138_357_544, "inputs": [[3, 224, 224]], "small_member_of": None}
    assert result["parameters"] == seen["graph"].num_parameters and result["small_member_of"] == whole
    result = tricnn("verify", "vgg16", "--json", "--input", "3,224,224", "--classes", "1000").json
    assert seen["graph"].num_parameters == 138_357_544
    assert {key: result[key] for key in whole} == whole


def test_verify_says_that_it_took_a_small_member_and_how_to_get_the_whole(tricnn):
    text = tricnn("verify", "lenet5", "--mode", "infer").out
    assert "small member" not in text  # LeNet is small
    text = tricnn("verify", "alexnet", "--mode", "infer").out
    first, last = text.splitlines()[0], text.splitlines()[-1]
    assert "small member" in first and "61,100,840" in first and "3x224x224" in first and "--input" in first
    assert last.startswith("the small member: ")


def test_train_prints_the_contract_and_leaves_a_checkpoint(tricnn, tiny, tmp_path):
    out = tmp_path / "run"
    command = ("train", tiny, "--data", "digits", "--epochs", 1, "--batch", 256, "--seed", 3, "--out", out)
    ran = tricnn(*command, "--json")
    assert (ran.status, ran.err) == (0, "")
    result = ran.json
    assert list(result) == TRAINED
    assert (result["graph"], result["data"], result["executor"]) == ("tiny", "digits", "numpy")
    assert (result["device"], result["seed"], result["epochs"]) == ("cpu", 3, 1)
    assert 0 < result["test_accuracy"] <= 1 and result["images_per_second"] > 0
    assert len(result["state_sha256"]) == 64
    assert (out / "checkpoint.safetensors").exists()
    again = tricnn(*command, "--resume")
    assert result["state_sha256"] in again.out
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_train_gives_the_network_as_many_classes_as_the_data_has(tricnn):
    ran = tricnn("train", "lenet5", "--data", "digits", "--epochs", 1, "--batch", 512, "--width", "0.2", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["graph"] == "lenet5"


def test_train_takes_a_small_member_and_says_so(tricnn, monkeypatch):
    from types import SimpleNamespace

    from tricnn.cli import train_command

    seen = []

    def stand_in(graph, dataset, options, screen, about, processes):
        seen.append((graph, dataset.image_shape, about))
        result = SimpleNamespace(epochs=1, train_loss=0.0, test_accuracy=0.5, images_per_second=1.0, state_sha256="",
                                 checkpoint=None)  # fmt: skip
        return SimpleNamespace(executor=SimpleNamespace(name="numpy", device="cpu")), result

    monkeypatch.setattr(train_command, "train", stand_in)
    tricnn("train", "alexnet", "--data", "digits")
    graph, shape, about = seen.pop()
    assert f"alexnet: {graph.num_parameters:,} parameters, images 3x64x64 (a small member, for there is no GPU" in about
    assert about.endswith("learning rate 0.01")  # 0.08 by its eight layers, which no batch norm keeps in scale
    assert graph.num_parameters < 1e6 and shape == (3, 64, 64)
    assert all(n.attrs["p"] < 0.1 for n in graph.of("dropout")) and len(graph.of("dropout")) == 2
    tricnn("train", "alexnet", "--data", "digits", "--input", "3,224,224")
    assert (
        seen.pop()[2] == "alexnet: 57,044,810 parameters, images 3x224x224, learning rate 0.01"
    )  # 61,100,840 less 990 of 4097
    tricnn("train", "lenet", "--data", "digits")
    assert seen.pop()[2] == "lenet: 61,706 parameters, images 1x28x28, learning rate 0.02"


def test_train_starts_from_weights_in_a_file(tricnn, tiny, tmp_path):
    command = ("train", tiny, "--data", "digits", "--batch", 512, "--json")
    first = tricnn(*command, "--epochs", 4, "--out", tmp_path / "a").json
    start = tmp_path / "a" / "checkpoint.safetensors"
    gone_on = tricnn(*command, "--epochs", 1, "--weights", start, "--out", tmp_path / "b", "--lr", "1e-9").json
    assert gone_on["test_accuracy"] == pytest.approx(first["test_accuracy"], abs=0.02)
    fresh = tricnn(*command, "--epochs", 1, "--lr", "1e-9").json
    assert fresh["test_accuracy"] < first["test_accuracy"] - 0.1


#: networks of the zoo that are trained without a GPU by the plain command
LEARN = ("resnet18", "googlenet_bn", "vgg11_bn", "alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LEARN)
def test_a_small_member_learns_the_digits(tricnn, tmp_path, name, seed):
    from tricnn.training.checkpoint import load_checkpoint

    ran = tricnn("train", name, "--data", "digits", "--seed", seed, "--out", tmp_path / "run", "--json")
    assert ran.status == 0 and ran.json["test_accuracy"] > 0.95
    progress = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").progress
    losses = [epoch["train_loss"] for epoch in progress.epochs]
    assert losses[-1] < 0.1 * losses[0] and losses[-1] < losses[len(losses) // 2] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_lenet_reads_98_percent_of_the_digits_whatever_the_seed(tricnn, seed):
    assert tricnn("train", "lenet", "--data", "digits", "--seed", seed, "--json").json["test_accuracy"] >= 0.98


@pytest.mark.slow
def test_lenet_compiles_for_an_h100_without_spills(tricnn):
    result = tricnn(
        "compile", "lenet", "--mode", "train", "--batch", 256, "--dtype", "bf16", "--target", "sm_90", "--json"
    ).json  # fmt: skip
    assert all(k["spill_bytes"] == 0 for k in result["kernels"])
    assert result["launches"] < 0.5 * result["unfused"]["launches"]
    assert result["dram_bytes"] < 0.5 * result["unfused"]["dram_bytes"]
    assert any(k["tensor_core"] for k in result["kernels"])


def test_bench_without_a_gpu_has_static_figures_and_the_ratio_to_pytorch(tricnn):
    ran = tricnn("bench", "lenet", "--batch", 8, "--seconds", "0.1", "--json")
    assert (ran.status, ran.err) == (0, "")
    result = ran.json
    assert result["static"]["fused"]["launches"] < result["static"]["unfused"]["launches"]
    assert {t["name"] for t in result["timings"]} == {"tricnn numpy", "PyTorch", "tricnn eager"}
    assert all(t["median_seconds"] > 0 for t in result["timings"])
    assert result["ratios"]["PyTorch"] == 1.0 and result["ratios"]["tricnn numpy"] > 0
    predicted = result["predicted"]
    assert predicted["fused_us"] == pytest.approx(sum(k["predicted_us"] for k in predicted["kernels"]), abs=0.01)
    assert predicted["fused_us"] < predicted["unfused_us"]
    for kernel in predicted["kernels"]:  # an H100's data sheet: 67 TFLOP/s in fp32; 2 us a launch
        products = kernel["flops"] if kernel["kind"].startswith(("conv2d", "linear")) else 0
        assert kernel["predicted_us"] >= 2 * kernel["launches"] + 1e6 * products / 67e12


def test_compile_explain_and_bench_predict_one_time(tricnn, tiny):
    """One network, one figure: a launch costs 2 us, so two of them are not done in less."""
    how = (tiny, "--mode", "infer", "--batch", 4, "--target", "sm_90", "--json")
    compiled, explained = tricnn("compile", *how).json, tricnn("explain", *how).json
    bench = tricnn("bench", *how, "--seconds", "0.01").json
    assert compiled["predicted_us"] == explained["predicted_us"] == bench["predicted"]["fused_us"] >= 2 * 2
    assert explained["unfused"]["predicted_us"] == bench["predicted"]["unfused_us"]
    kernels = {k["name"]: k["predicted_us"] for k in compiled["kernels"]}
    assert kernels == {k["name"]: k["predicted_us"] for k in bench["predicted"]["kernels"]}
    shown = f"{compiled['predicted_us']:.2f} us"
    words = {command: tricnn(command, *how[:-1]).out for command in ("compile", "explain", "bench")}
    assert all(shown in text for text in words.values()) and not any("at least" in text for text in words.values())


def test_bench_on_a_gpu_checks_every_contender_and_times_it_beside_eager(tricnn, tiny, monkeypatch):
    """The same code, with the CPU and Triton's interpreter in a GPU's place."""
    from functools import partial

    from tricnn.cli import bench_command
    from tricnn.measure import contest

    monkeypatch.setattr("tricnn.run.model.gpu_present", lambda: True)
    monkeypatch.setattr("tricnn.run.model.device_target", lambda: "sm_90")
    monkeypatch.setattr(bench_command, "device_name", lambda on_gpu: "a GPU")
    monkeypatch.setattr(contest, "Contest", partial(contest.Contest, rehearse=True))
    ran = tricnn("bench", tiny, "--mode", "infer", "--batch", 2, "--max-autotune", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert [t["name"] for t in ran.json["timings"]] == [
        "PyTorch eager", "tricnn fused", "tricnn fused, CUDA graph", "tricnn unfused", "torch.compile",
        "torch.compile max-autotune",
    ]  # fmt: skip
    assert all(t["median_seconds"] > 0 and t["ratio"] == ran.json["ratios"][t["name"]] for t in ran.json["timings"])
    monkeypatch.setitem(contest.AGREEMENT, "fp32", -1.0)
    wrong = tricnn("bench", tiny, "--mode", "infer", "--batch", 2)
    assert wrong.status == 0 and "tricnn fused failed: differs from PyTorch eager" in wrong.out


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_baseline_of_bench_computes_what_tricnn_computes(mode):
    """A ratio to a network that computes something else would mean nothing."""
    import numpy as np

    import tricnn
    from tricnn.measure.contest import random_batch
    from tricnn.measure.pytorch_network import step

    graph = tricnn.graphs.cifar_resnet20(width=0.25, input_shape=(3, 16, 16))
    images, labels = random_batch(graph, 4)
    model = tricnn.compile(graph, mode, 4, "fp32", "numpy")
    theirs = step(graph, mode, model.state_dict(), images, labels, "fp32", "cpu")()
    if mode == "infer":
        np.testing.assert_allclose(theirs[0].numpy(), model(images), rtol=1e-3, atol=1e-4)
    else:
        np.testing.assert_allclose(theirs.item(), model.loss_and_grads(images, labels)[0], rtol=1e-5)


def test_a_contender_that_fails_is_reported_and_the_others_go_on():
    from tricnn.measure.clock import wall_clock
    from tricnn.measure.in_turns import in_turns

    def broken():
        raise RuntimeError("no such\nkernel")

    calls = iter(range(100))

    def breaks_later():
        if next(calls) > 3:
            raise ValueError("worn out")

    rows = in_turns(
        {"good": lambda: lambda: None, "bad": broken, "later": lambda: breaks_later}, wall_clock, images=8, seconds=0
    )
    good, bad, later = rows
    assert good["rounds"] == 3 and good["images_per_second"] > 0
    assert bad == {"name": "bad", "error": "RuntimeError: no such kernel"}
    assert later["error"] == "ValueError: worn out"
