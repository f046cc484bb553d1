"""Input that was made to do harm, or came to by accident: one short line and exit status 2, soon, in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tricnn.system import limits

from .conftest import Ran
from .test_bad_input import is_refused

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tuned(tmp_path):
    return tmp_path / "tuned.toml"


LINE = '[sm_90.conv2d.bf16]\n"N1 C8" = { m = 64, n = 16, k = 16, warps = 4, stages = 1, us = %s }\n'

TUNED = {
    "5000 digits": (LINE % ("9" * 5000), "too many digits"),
    "5000 hexadecimal digits": (LINE % ("0x" + "f" * 5000), "a number of thousands of digits"),
    "too large for a float": (LINE % ("1" + "0" * 400), "line 2: us must be a number that a float can hold"),
    "a truth": (LINE % "true", "line 2: us must be a number"),
    "lists in lists": ("a = " + "[" * 5000, "go too deep"),
    "a megabyte of a name": (f'"{"n" * 10**6}" = 3\n', "is out of place"),
}


@pytest.mark.parametrize("what", TUNED)
def test_a_file_of_tiles_that_is_none(tricnn, tuned, what):
    text, words = TUNED[what]
    tuned.write_text(text)
    ran = tricnn("compile", "lenet", "--target", "sm_90", "--tuned", tuned)
    is_refused(ran, str(tuned), words)
    assert len(ran.err) < limits.LARGEST_MESSAGE + 100


def test_a_file_of_tiles_that_has_no_end_or_no_beginning(tricnn, tuned):
    os.mkfifo(tuned)
    for path in ("/dev/zero", tuned):
        is_refused(tricnn("compile", "lenet", "--tuned", path), str(path), "not a regular file")


@pytest.mark.parametrize("option", ["MODEL", "--out", "--data-dir", "--weights"])
@pytest.mark.parametrize("path, words", [("a\0b", "NUL"), ("~no-such-user/x", "no user 'no-such-user'")])
def test_a_path_that_cannot_be(tricnn, tiny, option, path, words):
    command = [path] if option == "MODEL" else [tiny, option, path]
    is_refused(tricnn("train", *command, "--data", "mnist"), words)


def test_a_home_is_found_where_a_path_says_so(tricnn, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tricnn("show", "~/tiny.txt").status == 0
    monkeypatch.setenv("TRICNN_DUMP", "~/dumped")
    monkeypatch.setenv("TRICNN_CACHE", "~/kernels")
    assert tricnn("compile", tiny, "--out", "~/out").status == 0
    assert {p.name for p in tmp_path.iterdir()} >= {"dumped", "kernels", "out"} and os.listdir() == []


@pytest.mark.parametrize(
    "argv",
    [
        ["show", "m" * 10**6],
        ["compile", "lenet", "--target", "t" * 10**6],
        ["x" * 10**6],
        ["train", "lenet", "--data", "d" * 10**6],
    ],
)
def test_a_line_of_error_is_short_whatever_it_repeats(tricnn, argv):
    ran = tricnn(*argv)
    is_refused(ran)
    assert len(ran.err) < limits.LARGEST_MESSAGE + 100


def test_on_windows_it_says_where_it_runs(tricnn, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    is_refused(tricnn("list"), "Linux", "WSL 2")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_in_types_of_eight_bits_load_and_those_without_values_do_not(tricnn, tiny, tmp_path, suffix):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / f"w{suffix}"
    state = {"conv.weight": torch.ones(4, 1, 3, 3), "fc.weight": torch.ones(10, 64)}
    command = ("train", tiny, "--data", "digits", "--epochs", 1, "--batch", 1500, "--weights", path)
    save = torch.save if suffix == ".pth" else save_file
    save({name: x.to(torch.float8_e4m3fn) for name, x in state.items()}, path)
    ran = tricnn(*command)
    assert ran.status == 0, ran.err
    if suffix == ".pth":
        save(state | {"fc.weight": torch.ones(10, 64, device="meta")}, path)
        is_refused(tricnn(*command), "'fc.weight' is a meta tensor")
    save(state | {"fc.weight": torch.tensor(1.0)}, path)
    is_refused(tricnn(*command), "fc.weight has shape ()")


# --- networks too large -----------------------------------------------------------------------------------------------

HEAD = "graph g\nx = input(shape=[N, 4, 8, 8])\n"
W11 = 'w = parameter(shape=[4, 4, 1, 1], init="constant(0)")\n'


def chain(count):
    return HEAD + "".join(f"l{i} = relu({f'l{i - 1}' if i else 'x'})\n" for i in range(count))


def with_y(statement):
    return f"{HEAD}{W11}y = {statement}\noutput logits = y\n"


TOO_LARGE = {
    "an upsampling to 2^40 pixels": (with_y("upsample_bilinear2d(x, size=1048576)"), "elements an image"),
    "a transposed convolution": (with_y("conv_transpose2d(x, w, stride=65536, output_padding=65535)"), "elements an"),
    "zeros around an image": (with_y("zero_pad2d(x, padding=[1048576, 1048576, 0, 0])"), "y"),
    "pixels of a channel": (
        with_y("pixel_shuffle(x, upscale_factor=1000000000)"),
        "layer y: upscale_factor=1000000000",
    ),
    "a slice of 1e9": (with_y("slice_channels(x, start=0, stop=1000000000)"), "channels 0 to 1000000000"),
    "lrn size 1e9": (with_y("local_response_norm(x, size=1000000000)"), "layer y: size=1000000000"),
    "pool pad 1e9": (with_y("max_pool2d(x, kernel_size=2000000001, stride=1, padding=1000000000)"), "kernel_size"),
    "conv pad 1e9": (with_y("conv2d(x, w, padding=1000000000)"), "layer y: padding=1000000000"),
    "groups 1e9": (
        "graph g\nx = input(shape=[N, 1000000000, 1, 1])\n"
        'w = parameter(shape=[1000000000, 1, 1, 1], init="constant(0)")\n'
        "y = conv2d(x, w, groups=1000000000)\noutput logits = y\n",
        "layer y: groups=1000000000",
    ),
    "an image of 2^40 pixels": (
        "graph g\nx = input(shape=[N, 1, 1048576, 1048576])\noutput o = x\n",
        "elements an image",
    ),
    "an image of one row": ("graph g\nx = input(shape=[N, 1, 1, 2147483647])\noutput o = x\n", "1048576 pixels"),
    "a parameter of 2^40": (
        'graph g\nw = parameter(shape=[1048576, 1048576], init="constant(0)")\n',
        "elements in all",
    ),
    "a million axes": (
        f'graph g\nw = parameter(shape=[{"1," * 300_000}1], init="constant(0)")\n',
        "at most 65536 items",
    ),
    "a hundred axes": (f'graph g\nw = parameter(shape=[{"1," * 100}1], init="constant(0)")\n', "at most 8"),
    "20,000 layers in a chain": (chain(20_000) + "output o = x\n", "more than 20000 layers"),
    "a concatenation of 20,000": (
        with_y(f"concat({', '.join(['x'] * 20_000)})"),
        "20000 inputs; a layer has at most 1000",
    ),
    "300,000 outputs": (HEAD + "".join(f"output o{i} = x\n" for i in range(300_000)), "more than 1000 outputs"),
    "megabytes of parentheses": (
        f"graph g\nx = input(shape={'(' * (8 << 20)}",
        "a line has at most 1048576 characters",
    ),
    "lines of parentheses": (f"graph g\nx = input(shape={'(' * (1 << 19)}\n" * 16, "lists go no deeper"),
    "a megabyte of a name": (f"graph {'n' * (1 << 20 - 1)}\n", "at most 128 characters"),
    "a number of a megabyte": (with_y(f"conv2d(x, w, stride={'9' * 10**6})"), "fits 64 bits"),
}


AT_THE_LIMITS = [
    "local_response_norm(x, size=65536)", "max_pool2d(x, kernel_size=65536, stride=1, padding=32768)",
    "avg_pool2d(x, kernel_size=65535, stride=1, padding=32767)", "conv2d(x, w, padding=[65536, 65536, 0, 0])",
    "conv2d(x, w, padding=65536, dilation=65536, stride=65536)", "upsample_nearest2d(x, size=[1048576, 1])",
    "upsample_bilinear2d(x, size=[1048576, 1])", "adaptive_avg_pool2d(x, output_size=[1, 1048576])",
    "zero_pad2d(x, padding=[65536, 65536, 0, 0])",
]  # fmt: skip

SCRIPT = """
import contextlib, io, json, resource, sys
from tricnn.cli import main
from tricnn.system import waiting
waiting.SECONDS_BETWEEN_LINES = 3600  # what is said meanwhile is not what is looked at here
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["explain", path])
    print(json.dumps([path, status, out.getvalue()[:1000], err.getvalue()[:5000]]), flush=True)
"""


def test_networks_beyond_the_limits_are_refused_before_any_work_and_at_them_nothing_takes_long(tmp_path):
    """In a process that has 2 GB of address space and a minute for them all."""
    texts, paths = (
        {what: text for what, (text, _) in TOO_LARGE.items()} | {layer: with_y(layer) for layer in AT_THE_LIMITS},
        {},
    )
    for number, (what, text) in enumerate(texts.items()):
        paths[what] = tmp_path / f"{number}.txt"
        paths[what].write_text(text)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths.values())], stdout=subprocess.PIPE, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    answers = {line[0]: Ran(*line[1:]) for line in map(json.loads, ran.stdout.splitlines())}
    missing = [what for what, path in paths.items() if str(path) not in answers]
    assert missing == [], "the first of these took too long, or too much memory"
    for what, (_, words) in TOO_LARGE.items():
        found = answers[str(paths[what])]
        is_refused(found, ".txt: ", words)
        assert len(found.err) < limits.LARGEST_MESSAGE + 100, what
    failed = {layer: answers[str(paths[layer])].err for layer in AT_THE_LIMITS if answers[str(paths[layer])].status}
    assert failed == {}


@pytest.mark.parametrize(
    "argv", [["verify"], ["bench"], ["train", "--data", "digits", "--epochs", "1"]], ids=lambda argv: argv[0]
)
def test_a_batch_that_no_memory_holds_is_refused_before_it_is_made(tricnn, argv, monkeypatch):
    from tricnn.run import model
    from tricnn.system import cores

    monkeypatch.setattr(model, "gpu_present", lambda: False)
    monkeypatch.setattr(cores, "usable_memory", lambda: 1 << 30)
    ran = tricnn(argv[0], "lenet", *argv[1:], "--batch", 2**31 - 1, "--width", 64)
    is_refused(ran, "lenet with a batch of ", "are free; a smaller --batch")


# --- long networks ----------------------------------------------------------------------------------------------------


def blocks(count):
    """Convolution, batch norm and relu, so many times."""
    lines, x = [HEAD], "x"
    for i in range(count):
        lines.append(
            f'c{i}.weight = parameter(shape=[4, 4, 1, 1], init="constant(1)")\nc{i} = conv2d({x}, c{i}.weight)\n'
            f'b{i}.weight = parameter(shape=[4], init="constant(1)")\n'
            f'b{i}.bias = parameter(shape=[4], init="constant(0)")\n'
            f'b{i}.mean = buffer(shape=[4], init="constant(0)")\nb{i}.var = buffer(shape=[4], init="constant(1)")\n'
            f"b{i} = batch_norm(c{i}, b{i}.weight, b{i}.bias, b{i}.mean, b{i}.var)\nr{i} = relu(b{i})\n"
        )
        x = f"r{i}"
    return "".join(lines) + f"g = global_avg_pool({x})\nf = flatten(g)\noutput logits = f\n"


LONG = {
    "150 blocks": (blocks(150), "train"),
    "a concatenation of 1,000": (
        chain(1) + "".join(f"m{i} = tanh(x)\n" for i in range(1000))
        + f"y = concat({', '.join(f'm{i}' for i in range(1000))})\noutput logits = y\n", "infer",
    ),
    "1,000 relus before a pooling": (
        chain(1000) + "p = max_pool2d(l999, kernel_size=2, stride=2)\noutput logits = p\n", "infer",
    ),
    "1,000 relus behind a flattening": (
        chain(1000).replace("l0 = relu(x)", "l = flatten(x)\nl0 = relu(l)") + "output logits = l999\n", "infer",
    ),
}  # fmt: skip


WITHIN = """
import contextlib, io, json, resource, sys, time
from tricnn.cli import main
for seconds, mode, path in (json.loads(line) for line in sys.stdin):
    limit = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = main(["explain", path, "--mode", mode])
    print(json.dumps([path, status, err.getvalue()[-500:]]), flush=True)
"""


def explained_within(seconds, folder, texts):
    """The status of ``explain`` and what it says, for each text and mode: a process has so many seconds of processor
    time for each of them, and ends with the first that takes longer."""
    jobs = {what: [seconds, mode, str(folder / f"{n}.txt")] for n, (what, (text, mode)) in enumerate(texts.items())}
    for what, (_, _, path) in jobs.items():
        Path(path).write_text(texts[what][0])
    ran = subprocess.run(
        [sys.executable, "-c", WITHIN], input="".join(json.dumps(job) + "\n" for job in jobs.values()),
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    answers = {path: (status, err) for path, status, err in map(json.loads, ran.stdout.splitlines())}
    return {what: answers.get(path, (-1, "it, or one before it, took too long")) for what, (*_, path) in jobs.items()}


def test_a_long_network_takes_time_in_proportion(tmp_path):
    """A quadratic pass over the chain of relus took 10 s, one that recursed an internal error."""
    answers = explained_within(8, tmp_path, LONG)
    assert {what: err for what, (status, err) in answers.items() if status} == {}


@pytest.mark.slow
@pytest.mark.parametrize("text, mode", [(chain(5000) + "output o = l4999\n", "infer"), (blocks(2000), "train")])
def test_a_very_long_network_takes_time_in_proportion(text, mode, tmp_path):
    """2,000 blocks take 50 to 110 s of processor time, by how busy the machine is; a quadratic pass takes many times
    that."""
    ((status, err),) = explained_within(200, tmp_path, {"it": (text, mode)}).values()
    assert status == 0, err
