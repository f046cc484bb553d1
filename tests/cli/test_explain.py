"""``tricnn explain`` about one edge or one layer: what each rule answered, with the values that decided."""

import pytest

RESNET = ["explain", "resnet18", "--width", "0.25", "--input", "3,64,64", "--target", "sm_90"]


def test_one_edge(tricnn):
    ran = tricnn(*RESNET, "--mode", "train", "--edge", "layer1.0.conv1:layer1.0.bn1")
    assert ran.status == 0 and ran.out.splitlines() == [
        f"layer1.0.conv1 -> layer1.0.bn1  not fused: read, {4 * 16 * 16 * 16 / 1e3:.1f} kB",
        "    epilogue: the reader also needs layer1.0.bn1.stats, which is complete only when the kernel ends",
    ]


def test_one_edge_in_json(tricnn):
    """The reason by itself, and the values that are in it."""
    edge = "layer1.0.conv1:layer1.0.bn1.stats"
    (found,) = tricnn(*RESNET, "--mode", "train", "--edge", edge, "--json").json["edges"]
    equation = "(conv2d(x), batch_stats(conv2d(x))) = conv2d[side sum](x)"
    assert found["answers"] == [{"rule": "side_sums", "fused": True, "equation": equation}] and found["fused"]
    assert found["bytes"] == found["bytes_saved"] == 4 * 16 * 16 * 16
    (found,) = tricnn(*RESNET, "--mode", "train", "--edge", "relu:layer1.0.add", "--json").json["edges"]
    assert not found["fused"] and [a["rule"] for a in found["answers"]] == ["prologue", "epilogue"]
    for answer in found["answers"]:
        assert answer["values"] and all(value in answer["reason"] for value in answer["values"].values())


def test_an_edge_that_a_pass_took_away_says_which(tricnn):
    """For inference batch norm is folded, and the pooling is moved before the ReLU."""
    ran = tricnn(*RESNET, "--edge", "conv1:bn1")
    assert ran.status == 0 and ran.out.splitlines()[0] == "conv1 -> bn1  rewritten before fusion"
    assert "batch-norm-folded: batch_norm(conv2d(x, w, b)) = " in ran.out
    (edge,) = tricnn(*RESNET, "--edge", "bn1:relu", "--json").json["edges"]
    assert edge["pass"] == "tidied" and "max_pool2d(relu(x)) = relu(max_pool2d(x))" in edge["rule"]


def test_a_layer_and_a_block(tricnn):
    """A layer's edges are those of what differentiation made for it too; a block's, those of its layers."""
    every = tricnn(*RESNET, "--mode", "train", "--json").json["edges"]
    for name in ("bn1", "layer1.0"):
        asked = tricnn(*RESNET, "--mode", "train", "--layer", name, "--json").json["edges"]
        ends = [{n for n in (e["producer"], e["consumer"]) if n == name or n.startswith(f"{name}.")} for e in every]
        assert asked == [e for e, mine in zip(every, ends, strict=True) if mine] and 5 < len(asked) < len(every)
    text = tricnn(*RESNET, "--mode", "train", "--layer", "bn1").out
    assert "bn1.grad_sums" in text and "launches" not in text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--edge", "conv1:rellu"], ["no layer rellu", "did you mean relu?"]),
        (["--edge", "conv1"], ["not an edge", "VALUE:READER"]),
        (["--edge", "bn1:fc"], ["fc does not read bn1; it reads fc.flatten, fc.weight, fc.bias"]),
        (["--edge", "x:bn1"], ["x (input) is there before the step"]),
        (["--edge", "bn1.folded_weight:bn1"], ["computed once whenever parameters are loaded"]),
        (["--layer", "layer1.9"], ["no layer of this name", "did you mean", "layer1"]),
        (["--layer", "conv1"], ["gone before fusion", "batch-norm-folded"]),
        (["--layer", "zzzzzzz"], ["no layer of this name", "tricnn show"]),
        (["--layer", "fc", "--edge", "avgpool:fc"], ["not allowed with"]),
    ],
)
def test_a_name_that_is_none(tricnn, asked, words):
    ran = tricnn(*RESNET, *asked)
    said = [line for line in ran.err.splitlines() if "error: " in line]  # on a busy machine progress is told before it
    assert ran.status == 2 and ran.out == "" and len(said) == 1 and "Traceback" not in ran.err
    assert all(word in ran.err for word in words), ran.err


def test_the_passes_that_ran_are_told(tricnn):
    found = tricnn(*RESNET, "--json").json["passes"]
    assert [p["name"] for p in found if p["changed"]] == ["batch-norm-folded", "tidied"]
    told = f"passes that changed the graph before fusion: batch-norm-folded, tidied (of {len(found)})"
    assert told in " ".join(tricnn(*RESNET).out.split())
