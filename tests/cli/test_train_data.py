"""What a user would lose: `tricnn train` on a folder of pictures, and a line that says what is wrong with one."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cats", "dogs"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(
                    tmp_path / "pets" / part / name / f"{i}.png"
                )
    return tmp_path / "pets"


def test_train_on_a_folder_resumes_and_skips_what_cannot_be_read(tricnn, tiny, folder, tmp_path):
    varied = ("--flip", 0.3, "--trivial-augment", "--erasing", 0.5, "--mean", 0.5, "--std", "0.2")
    command = ("train", tiny, "--data", folder, "--batch", 4, "--schedule", "constant", "--workers", 0, *varied)
    whole = tricnn(*command, "--epochs", 2, "--out", tmp_path / "a", "--json")
    assert whole.status == 0, whole.err
    assert whole.json["data"] == "pets" and whole.json["epochs"] == 2
    assert tricnn(*command, "--epochs", 1, "--out", tmp_path / "b").status == 0
    resumed = tricnn(*command, "--epochs", 2, "--out", tmp_path / "b", "--resume", "--json")
    assert resumed.json["state_sha256"] == whole.json["state_sha256"]
    (folder / "train" / "cats" / "3.png").write_text("no picture")
    ran = tricnn(*command, "--epochs", 1)
    assert (ran.status, ran.err.count("\n"), "cats/3.png" in ran.err) == (2, 1, True)
    ran = tricnn(*command, "--epochs", 1, "--corrupt", "skip")
    assert ran.status == 0 and "cats/3.png" in ran.out and "waiting for data" in ran.out


def test_synthetic_images_need_no_data(tricnn, tiny):
    ran = tricnn("train", tiny, "--synthetic", "--epochs", 1, "--batch", 8, "--json")
    assert ran.status == 0 and ran.json["data"] == "synthetic"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--data", "digits", "--crop", "padded"], "--crop"),
        (["--data", "digits", "--synthetic"], "--synthetic"),
        (["--data", "pets", "--shift", "1"], "--crop padded"),
        (["--data", "pets", "--mean", "1,2"], "1,2"),
        (["--data", "."], "train/CLASS"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_a_line(tricnn, tiny, folder, monkeypatch, options, word):
    monkeypatch.chdir(folder.parent)
    ran = tricnn("train", tiny, *options)
    assert ran.status == 2 and word in ran.err and ran.err.count("\n") == 1
