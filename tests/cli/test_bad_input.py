"""Whatever is wrong with what a user gives: exit status 2, one plain line on standard error, nothing written."""

import struct

import pytest

NET = """\
graph net
x = input(shape=[N, 4, 8, 8])
w = parameter(shape=[6, 4, 3, 3], init="he_normal(fan_out)")
y = conv2d(x, w)
z = flatten(y)
output logits = z
"""

# what is wrong: text of the graph, words the line must have
GRAPHS = {
    "a character that means nothing": (NET.replace("y = conv2d(x, w)", "y = conv2d(x; w)"), ["line 4, column 13"]),
    "a statement cut short": (NET.replace("y = conv2d(x, w)", "y = conv2d(x, w"), ["line 4, column 16"]),
    "an operation that does not exist": (NET.replace("conv2d(x", "conv3d(x"), ["line 4", "conv2d"]),
    "a cycle": (NET.replace("conv2d(x, w)", "conv2d(r, w)") + "r = relu(y)\n", ["cycle", "r", "y"]),
    "a shape that does not fit": (NET.replace("[6, 4, 3, 3]", "[6, 5, 3, 3]"), ["line 4", "y", "4", "5"]),
    "a kernel larger than its padded input": (NET.replace("[6, 4, 3, 3]", "[6, 4, 9, 9]"), ["y", "9", "8"]),
    "groups that do not divide": (NET.replace("(x, w)", "(x, w, groups=3)"), ["y", "groups", "3"]),
    "a name used twice": (NET + "y = relu(x)\n", ["line 7", "y", "already", "line 4"]),
    "a name with a quote": (NET.replace("y", 'y"'), ["line 4"]),
    "a name that climbs": (NET.replace("y", "../y"), ["line 4"]),
    "a name that is code": (NET.replace("y", "__import__('os')"), ["line 4"]),
    "a quote in a string": (NET.replace("he_normal(fan_out)", 'a"b'), ["line 3"]),
    "an initialiser that is code": (NET.replace("he_normal(fan_out)", "__import__('os').system('id')"), ["w", "init"]),
    "a number that is not finite": (NET.replace("(x, w)", "(x, w, stride=1e999)"), ["line 4", "1e999"]),
    "an input that is nowhere": (NET.replace("conv2d(x, w)", "conv2d(u, w)"), ["u"]),
    "nothing at all": ("", ["empty"]),
    "no output": (NET.replace("output logits = z\n", ""), ["output"]),
}

IDX_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def is_refused(ran, *words):
    assert ran.status == 2, ran.err or ran.out
    assert ran.out == ""
    assert ran.err.startswith("tricnn: error: ") and ran.err.endswith("\n") and ran.err.count("\n") == 1
    assert ran.err[:-1].isprintable()
    for word in words:
        assert word in ran.err, ran.err


@pytest.fixture
def refused(tricnn, tmp_path):
    """Run a command that must be refused, and find nothing new in any folder afterwards."""

    def files():
        return sorted(p for p in tmp_path.rglob("*"))

    def run(*argv, words=()):
        before = files()
        is_refused(tricnn(*argv), *words)
        assert files() == before

    return run


@pytest.mark.parametrize("command", ["show", "compile", "explain", "verify", "train", "bench"])
def test_a_model_that_does_not_exist(refused, command):
    data = ["--data", "digits"] if command == "train" else []
    refused(command, "lenett", *data, words=["lenett", "lenet", "tricnn list"])
    refused(command, "nets/mine.txt", *data, words=["no file nets/mine.txt"])


@pytest.mark.parametrize("what", GRAPHS)
def test_a_graph_that_is_not_one(refused, tmp_path, what):
    text, words = GRAPHS[what]
    path = tmp_path / "net.txt"
    path.write_text(text)
    refused("compile", path, "--out", tmp_path / "out", words=[str(path), *words])


def test_timing_a_network_that_has_no_input(refused, tmp_path):
    path = tmp_path / "net.txt"
    path.write_text('graph net\np = parameter(shape=[4], init="constant(0)")\noutput out = p\n')
    refused("bench", path, "--mode", "infer", words=["net has 0"])


def test_a_file_that_is_not_text(refused, tmp_path):
    (tmp_path / "bytes").write_bytes(b"graph a\n\xff\xfe\n")
    refused("show", tmp_path / "bytes", words=["line 2", "UTF-8"])
    refused("show", tmp_path, words=["folder"])
    refused("show", "/dev/zero", words=["MB"])


def test_a_hostile_name_of_a_file_stays_on_its_line(refused, tmp_path):
    path = tmp_path / "a\nb\x1b[31m.txt"
    path.write_text("graph")
    refused("show", path, words=["a b", "\\x1b"])


@pytest.mark.parametrize(
    "argv, words",
    [
        (["compile", "lenet", "--target", "sm_91"], ["sm_91", "sm_90", "gfx942"]),
        (["compile", "lenet", "--dtype", "fp7"], ["fp7", "bf16"]),
        (["compile", "lenet", "--dtype", "fp64"], ["fp64", "bf16"]),
        (["compile", "lenet", "--mode", "tran"], ["tran", "infer", "train"]),
        (["compile", "lenet", "--batch", "0"], ["--batch", "'0'", "at least 1"]),
        (["compile", "lenet", "--batch", "1e3"], ["--batch", "'1e3'"]),
        (["compile", "lenet", "--batch", "30000000000000000000"], ["--batch", "from 1 to 2147483647"]),
        (["compile", "lenet", "--width", "nan"], ["--width", "nan"]),
        (["compile", "lenet", "--width", "-1"], ["--width"]),
        (["compile", "lenet", "--input", "3,224"], ["--input", "3,224"]),
        (["compile", "lenet", "--input", "1,2,2"], ["conv2"]),
        (["compile", "lenet", "--classes", "0"], ["--classes"]),
        (["explain", "lenet", "--dtype", "int8"], ["int8"]),
        (["explain", "lenet", "--fuse", "most"], ["--fuse", "'most'", "auto, all, none", "epilogue, pooling"]),
        (["explain", "lenet", "--no-fuse", "--fuse", "all"], ["--fuse", "--no-fuse"]),
        (["verify", "lenet", "--seed", "x"], ["--seed", "'x'", "whole number"]),
        (["train", "lenet", "--data", "digits", "--fuse", "epilogue,most"], ["'epilogue,most'", "auto", "epilogue"]),
        (["verify", "lenet", "--target", "h99"], ["h99"]),
        (["verify", "lenet", "--dtype", "fp64"], ["fp64"]),
        (["bench", "lenet", "--dtype", "x"], ["x"]),
        (["bench", "lenet", "--seconds", "inf"], ["--seconds"]),
        (["train", "lenet"], ["--data"]),
        (["train", "lenet", "--data", "digit"], ["digit", "digits", "fashion-mnist", "mnist"]),
        (["train", "lenet", "--data", "digits", "--executor", "cuda"], ["cuda", "numpy"]),
        (["train", "lenet", "--data", "digits", "--dtype", "fp8"], ["fp8"]),
        (["train", "lenet", "--data", "digits", "--lr", "0"], ["--lr"]),
        (["train", "lenet", "--data", "digits", "--schedule", "linear"], ["linear", "cosine"]),
        (["train", "lenet", "--data", "digits", "--milestones", "3"], ["--milestones", "--schedule step"]),
        (["train", "lenet", "--data", "digits", "--schedule", "step"], ["--milestones", "--schedule step"]),
        (["train", "lenet", "--data", "digits", "--schedule", "step", "--milestones", "9,3"], ["9,3", "increase"]),
        (["train", "lenet", "--data", "digits", "--epochs", "-1"], ["--epochs"]),
        (["train", "lenet", "--data", "digits", "--classes", "5"], ["5", "10"]),
        (["train", "lenet", "--data", "digits", "--resume"], ["--out"]),
        (["train", "lenet", "--data", "mnist", "--data-dir", "nowhere"], ["nowhere"]),
        (["show"], ["MODEL"]),
        (["show", "lenet", "--colour"], ["--colour"]),
        (["shw", "lenet"], ["shw", "show"]),
        (["--json", "list"], ["--json"]),
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_command(refused, argv, words):
    refused(*argv, words=words)


def test_sizes_of_an_architecture_given_for_a_file(refused, tiny):
    refused("show", tiny, "--width", "2", words=["--width", "architectures"])


@pytest.mark.parametrize("out", ["/dev/null/deeper", "/proc/1/nothing", "taken"])
def test_an_out_that_cannot_be_written(refused, tmp_path, tiny, out):
    if out == "taken":
        out = tmp_path / "taken"
        out.write_text("a file")
    refused("compile", tiny, "--out", out, words=[str(out), "written"])
    refused("train", tiny, "--data", "digits", "--out", out, words=[str(out), "written"])


def test_an_out_is_not_left_behind_by_a_compilation_that_fails(refused, tmp_path, tiny, monkeypatch):
    from tricnn.build import build
    from tricnn.build.compile import CompileError

    def fails(*_, **__):
        raise CompileError("k00_conv", "sm_80", "out of shared memory")

    monkeypatch.setattr(build, "build", fails)
    refused("compile", tiny, "--out", tmp_path / "a" / "b", words=["k00_conv", "shared memory"])


def test_triton_where_there_is_neither_a_gpu_nor_the_interpreter(refused, tiny, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    words = ["CUDA", "TRITON_INTERPRET=1", "numpy"]
    refused("train", tiny, "--data", "digits", "--executor", "triton", words=words)
    refused("verify", tiny, words=words)


def idx(path, name, array, cut=0):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.astype("uint8").tobytes()
    (path / name).write_bytes(data[: len(data) - cut])


@pytest.mark.parametrize("what", ["whole", "truncated", "label out of range", "one part missing"])
def test_idx_files(tricnn, tmp_path, tiny, what):
    import numpy as np

    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(IDX_PARTS):
        count = 20 if i < 2 else 10
        array = rng.integers(0, 256, (count, 8, 8)) if i % 2 == 0 else rng.integers(0, 10, count)
        if what == "label out of range" and i == 1:
            array[3] = 12
        if what == "one part missing" and i == 3:
            continue
        idx(folder, name, array, cut=5 if what == "truncated" and i == 0 else 0)
    ran = tricnn("train", tiny, "--data", "mnist", "--data-dir", folder, "--epochs", 1, "--json")
    if what == "whole":
        assert ran.status == 0, ran.err
    else:
        words = {"truncated": ["train-images", "1280", "1275"], "label out of range": ["12", "0 to 9"]}
        is_refused(ran, *words.get(what, ["t10k-labels"]))


@pytest.mark.parametrize("damage", ["truncated", "one bit", "something else"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(tricnn, tmp_path, tiny, damage):
    out = tmp_path / "run"
    command = ("train", tiny, "--data", "digits", "--epochs", 1, "--batch", 512, "--out", out)
    assert tricnn(*command).status == 0
    path = out / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "one bit":
        data[-10] ^= 4
    else:
        data = bytearray(b"not a checkpoint")
    path.write_bytes(data)
    is_refused(tricnn(*command, "--resume"), str(path))
    assert path.read_bytes() == data


def test_resuming_under_other_settings(tricnn, tmp_path, tiny):
    out = tmp_path / "run"
    command = ("train", tiny, "--data", "digits", "--epochs", 1, "--batch", 512, "--out", out)
    assert tricnn(*command).status == 0
    is_refused(tricnn(*command, "--resume", "--seed", 5), "seed")
    is_refused(tricnn(*command, "--resume", "--executor", "eager"), "executor")
    is_refused(tricnn(*command, "--resume", "--shift", 0), "shift")
    is_refused(tricnn(*command, "--resume", "--weights", out / "checkpoint.safetensors"), "weights")


@pytest.mark.parametrize("what", ["absent", "text", "another network's"])
def test_weights_to_start_from_that_are_not(refused, tmp_path, tiny, what):
    import torch

    path = tmp_path / "w.pth"
    words = {"absent": "no such file", "text": "damaged", "another network's": "missing conv.weight"}[what]
    if what == "text":
        path.write_text("weights\n")
    elif what != "absent":
        torch.save({"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}, path)
    command = ("train", tiny, "--data", "digits", "--out", tmp_path / "out", "--weights", path)
    refused(*command, words=[str(path), words])


def test_a_run_that_diverges_says_so_in_one_line(tricnn, tiny):
    is_refused(tricnn("train", tiny, "--data", "digits", "--lr", "1e12", "--json"), "diverged", "learning rate")
