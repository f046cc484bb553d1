"""Input that was made to do harm, or came to by accident: one short line and exit status 2, soon, in little memory."""

import os
import sys

import pytest

from tricnn.system import limits

from .test_bad_input import is_refused


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
    is_refused(ran, "characters]")
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
