"""What a user would lose: `tricnn train` on a folder of pictures, and a line that says what is wrong with one."""

import json

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
    (said,) = [line for line in ran.err.splitlines() if "error" in line]
    assert ran.status == 2 and "cats/3.png" in said
    ran = tricnn(*command, "--epochs", 1, "--corrupt", "skip")
    assert ran.status == 0 and "cats/3.png" in ran.err and "waiting for data" in ran.err


def test_programs_are_told_which_pictures_were_skipped(tricnn, tiny, folder, tmp_path):
    """Without words on standard error, where the names are for people; each once, in whichever epoch and process."""
    bad = {"train/cats/3.png", "val/dogs/0.png"}
    for path in bad:
        (folder / path).write_text("no picture")
    out = tmp_path / "out"
    command = ("train", tiny, "--data", folder, "--batch", 4, "--schedule", "constant", "--workers", 0, "--json")
    skipping = (*command, "--corrupt", "skip", "--out", out, "--epochs", 2)
    ran = tricnn(*skipping)
    assert ran.status == 0 and ran.err == ""
    assert set(ran.json["skipped_pictures"]) == bad
    assert all("cannot identify" in reason for reason in ran.json["skipped_pictures"].values())
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    named = {line["skipped_picture"]: line for line in lines if "skipped_picture" in line}
    assert named.keys() == bad and sum("skipped_picture" in line for line in lines) == 2
    assert {path: line["reason"] for path, line in named.items()} == ran.json["skipped_pictures"]
    assert 1 <= named["train/cats/3.png"]["step"] <= 3 == named["val/dogs/0.png"]["step"]  # of 3 an epoch
    assert [line["skipped_pictures"] for line in lines if "epoch" in line] == [2, 2]
    assert tricnn(*skipping, "--resume").json["skipped_pictures"] == ran.json["skipped_pictures"]  # reads none again
    for path in bad:
        (folder / path).unlink()
    assert "skipped_pictures" not in tricnn(*command, "--epochs", 1).json


def test_synthetic_images_need_no_data(tricnn, tiny):
    ran = tricnn("train", tiny, "--synthetic", "--epochs", 1, "--batch", 8, "--json")
    assert ran.status == 0 and ran.json["data"] == "synthetic"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--data", "digits", "--freeze", "stam"], "freeze: no layer or parameter is called 'stam'"),
        (["--data", "digits", "--groups", "fc lr"], "fc lr"),
        (["--data", "digits", "--crop", "padded"], "--crop"),
        (["--data", "digits", "--synthetic"], "--synthetic"),
        (["--data", "pets", "--shift", "1"], "--crop padded"),
        (["--data", "pets", "--mean", "1,2"], "1,2"),
        (["--data", "."], "train/CLASS"),
        (["--data", "pets", "--class-weights", "1,much"], "'1,much' is not a number of at least 0 for each class"),
        (["--data", "pets", "--class-weights", "0,0"], "not all 0"),
        (["--data", "pets", "--class-weights", "1,-2"], "at least 0"),
        (["--data", "pets", "--class-weights", "1,2,3"], "3 numbers, where tiny has"),
        (["--data", "pets", "--ignore-index", "2"], "accepted is a class of pets, 0 to 1"),
        (["--data", "pets", "--ignore-index=-100"], "accepted is a class of pets, 0 to 1"),
        (["--data", "pets", "--ignore-index", "cats"], "--ignore-index"),
        (["--data", "pets", "--label-smoothing", "1.5"], "at most 0.999"),
        (["--data", "pets", "--loss", "binary_cross_entropy", "--class-weights", "1,2"], "are for cross_entropy"),
        (["--data", "pets", "--loss", "mean_squared_error", "--label-smoothing", "0.1"], "is for cross entropies"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_a_line(tricnn, tiny, folder, monkeypatch, options, word):
    monkeypatch.chdir(folder.parent)
    ran = tricnn("train", tiny, *options)
    assert ran.status == 2 and word in ran.err and ran.err.count("\n") == 1


RECIPE = """\
model = "{model}"
batch = 4

[learning]
epochs = 3
schedule = "step"
milestones = [1, 2]
nesterov = true
label_smoothing = 0.1
mixup = 0.2
ema = 0.5
optimiser = "{optimiser}"
"""


def recipe(folder, model, optimiser="sgd"):
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(model=model, optimiser=optimiser))
    return path


def test_a_recipe_is_read_and_the_command_line_wins(tricnn, tiny, folder, tmp_path):
    made = recipe(tmp_path, tiny)
    data = ("--data", folder, "--workers", 0, "--epochs", 1)
    ran = tricnn("train", "--recipe", made, *data, "--out", tmp_path / "run", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["epochs"] == 1
    from tricnn.training import load_checkpoint

    settings = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").settings
    assert (settings["batch"], settings["milestones"], settings["nesterov"]) == (4, [3, 6], True)
    assert (settings["mixup"], settings["ema"], settings["label smoothing"]) == (0.2, 0.5, 0.1)
    written = ("--optimiser=sgd", "--label-smoothing=0.1", "--batch=4", "--schedule=step", "--milestones=1,2")
    same = tricnn("train", tiny, *data, *written, "--nesterov", "--mixup=0.2", "--ema=0.5", "--json")
    assert same.json["state_sha256"] == ran.json["state_sha256"]
    assert (tmp_path / "run" / "averaged.safetensors").exists() and (tmp_path / "run" / "epochs.csv").exists()


def test_classes_count_as_much_as_they_are_told_to(tricnn, tiny, folder, tmp_path):
    """A class that weighs nothing is one that is ignored, twice the weights are the same weights (they are divided by
    their mean); a recipe says the same as the options, and a run goes on only under them."""
    classes = 10  # of the network; the folder has the first two
    zeros = ",0" * (classes - 2)
    command = (
        "train",
        tiny,
        "--data",
        folder,
        "--batch",
        4,
        "--workers",
        0,
        "--epochs",
        1,
        "--flip",
        0,
        "--crop",
        "none",
    )

    def weights(*options):
        ran = tricnn(*command, *options, "--json")
        assert ran.status == 0, ran.err
        return ran.json["state_sha256"]

    plain = weights()
    first = weights("--class-weights", f"1,0{zeros}")
    assert first == weights("--ignore-index", 1) == weights("--class-weights", f"2,0{zeros}") != plain
    assert weights("--class-weights", ",".join(["1"] * classes)) == plain
    (tmp_path / "r.toml").write_text(f"[learning]\nclass-weights = [3, 1{zeros}]\nlabel-smoothing = 0.1\n")
    out = ("--out", tmp_path / "run")
    made = weights("--recipe", tmp_path / "r.toml", *out)
    assert made == weights("--class-weights", f"3,1{zeros}", "--label-smoothing", 0.1) != plain
    ran = tricnn(*command, "--label-smoothing", 0.1, *out, "--resume")
    assert ran.status == 2 and "class weights [3.0, 1.0" in ran.err and ran.err.count("\n") == 1
    (tmp_path / "r.toml").write_text("ignore_index = 1\n")
    assert weights("--recipe", tmp_path / "r.toml") == first


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epoch = 3", "epochs?"),
        ("epochs = ", "not a recipe in TOML"),
        ("[a]\nlr = 'much'", "--lr"),
        ("lr = 1979-05-27", "lr"),
    ],
)
def test_a_recipe_that_is_none_is_refused_in_a_line(tricnn, tiny, tmp_path, text, word):
    (tmp_path / "r.toml").write_text(text)
    ran = tricnn("train", tiny, "--data", "digits", "--recipe", tmp_path / "r.toml")
    assert ran.status == 2 and word in ran.err and ran.err.count("\n") == 1
    assert tricnn("train", tiny, "--recipe", tmp_path / "nowhere").status == 2


def test_the_recipes_that_come_along_are_understood():
    """Every option, and every value, by the command's own parser."""
    from pathlib import Path

    import tricnn as package
    from tricnn.cli import train_command
    from tricnn.cli.command_line import Parser
    from tricnn.compiler.frozen import frozen_parameters
    from tricnn.training.options import grouped

    found = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert len(found) >= 3
    for path in found:
        parser = Parser()
        train_command.add_arguments(parser)
        options = parser.parse_args(train_command.expanded(["resnet18", "--recipe", str(path)], parser))
        assert options.model == "resnet18" and options.epochs >= 10
        graph = package.graphs.resnet18()
        grouped([p.name for p in graph.parameters], options.groups)
        assert path.stem != "fine-tune" or len(frozen_parameters(graph, options.freeze)) > 10


def test_weights_of_other_classes_are_a_start_and_the_head_is_said_to_be_new(tricnn, tiny, folder, tmp_path):
    import tricnn as package

    trained = package.compile(package.graphs.lenet5(num_classes=5, input_shape=(1, 32, 32)), executor="numpy", seed=9)
    trained.save_state_dict(tmp_path / "w.safetensors")
    command = ("train", "lenet5", "--input", "1,32,32", "--data", folder, "--weights", tmp_path / "w.safetensors")
    ran = tricnn(*command, "--workers", 0, "--batch", 4, "--epochs", 1, "--lr", "1e-9", "--out", tmp_path / "run",
                 "--freeze", "c1,f6.bias", "--groups", "c5 lr=10,* weight-decay=0")  # fmt: skip
    assert ran.status == 0, ran.err
    assert "not of 2 classes: left at the initial values" in " ".join(ran.err.split())
    from tricnn.training import load_checkpoint

    state = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").state
    head = [name for name, x in state.items() if x.shape[:1] == (2,)]
    for name, x in trained.state_dict().items():
        if name not in head:
            np.testing.assert_allclose(state[name], x, rtol=0, atol=1e-5)
            if name.startswith("c1.") or name == "f6.bias":
                assert state[name].tobytes() == x.tobytes(), name
    assert head and all(name in ran.err for name in head)


def test_what_was_trained_is_exported_and_checked(tricnn, tiny, folder, tmp_path):
    assert tricnn("train", tiny, "--data", folder, "--workers", 0, "--epochs", 1, "--out", tmp_path / "run").status == 0
    weights = tmp_path / "run" / "checkpoint.safetensors"
    ran = tricnn("export", tiny, "--weights", weights, "--out", tmp_path / "net.onnx", "--check", "--json")
    assert ran.status == 0, ran.err
    check = ran.json["check"]
    assert check["ok"] and 0 <= check["largest_difference"] <= check["tolerance"]
    assert tricnn("export", tiny, "--out", tmp_path / "net.txt").status == 2


def test_an_exported_file_of_other_weights_fails_its_check(tiny, tmp_path):
    from pathlib import Path

    import tricnn as package
    from tricnn.cli.export_command import checks
    from tricnn.ir import from_text

    graph = from_text(Path(tiny).read_text())
    one, other = (package.compile(graph, executor="numpy", fuse="none", seed=seed) for seed in (1, 2))
    package.to_onnx(graph, one.state_dict(), tmp_path / "net.onnx")
    assert checks(str(tmp_path / "net.onnx"), graph, one)["ok"]
    assert not checks(str(tmp_path / "net.onnx"), graph, other)["ok"]
