"""What a user would lose: recipes that run to their end, and every option of which does what it says.

Those that come along, on generated pictures laid out as their data are, by small members of their networks and for few
epochs: the run is that of the same settings written in Python, and no option could be left out.
"""

import csv
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tricnn as package
from tricnn import Loss, Trainer
from tricnn.cli.recipe import flat
from tricnn.training import Augmentation, ParameterGroup, PictureFolder, TrainOptions, load_checkpoint
from tricnn.training.checkpoint import state_sha256

RECIPES = {path.stem: path for path in (Path(__file__).parents[2] / "recipes").glob("*.toml")}
pytestmark = pytest.mark.filterwarnings("ignore:the training loss")  # so little is learned from so few

#: what makes a recipe small enough to run here, on the command line as a user would
SMALL = {
    "resnet20-cifar10": ("--width", 0.25, "--input", "3,16,16", "--epochs", 2, "--batch", 8, "--milestones", 1),
    "resnet50-imagenet": ("--width", 0.0625, "--input", "3,32,32", "--epochs", 2, "--batch", 6, "--warmup", 1),
    "fine-tune": ("--width", 0.0625, "--input", "3,32,32", "--epochs", 2, "--batch", 6),
}
#: another value for each option of a recipe
OTHER = {
    "dtype": "fp32", "epochs": 3, "batch": 4, "optimiser": "lars", "lr": 0.03, "momentum": 0.5, "nesterov": False,
    "weight-decay": 0.01, "schedule": "constant", "milestones": [2], "gamma": 0.5, "warmup": 1.5,
    "label-smoothing": 0.3, "mixup": 0.0, "cutmix": 0.0, "ema": 0.5, "clip": 1e-3, "freeze": ["conv1"],
    "groups": ["fc lr=2"], "crop": "none", "flip": 1.0, "trivial-augment": False, "erasing": 0.0,
    "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "corrupt": "fail",
}  # fmt: skip


def pictures(root, classes, sides, train, val, suffix):
    """A folder of noise, brighter at another place in each class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            where = root / part / f"n{label:02}"
            where.mkdir(parents=True)
            for i in range(count):
                height, width = rng.choice(sides, 2)
                pixels = rng.integers(0, 90, (height, width, 3))
                pixels[label // 3 * 8 :, label % 3 * 8 :][:8, :8] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(where / f"{i}.{suffix}")
    return root


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The data of each recipe: ten classes of 32x32, photographs of several sizes of which one is no picture, three
    classes."""
    root = tmp_path_factory.mktemp("data")
    made = {
        "resnet20-cifar10": pictures(root / "cifar10", 10, [32], 2, 1, "png"),
        "resnet50-imagenet": pictures(root / "imagenet", 4, [36, 45, 60], 4, 1, "jpg"),
        "fine-tune": pictures(root / "pets", 3, [36, 45, 60], 5, 1, "jpg"),
    }
    (made["resnet50-imagenet"] / "train" / "n01" / "2.jpg").write_text("no picture")
    return made


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A checkpoint of another run, with five classes."""
    out = tmp_path_factory.mktemp("before")
    model = package.compile(resnet18(5), "train", 5, executor="numpy")
    images = np.random.default_rng(1).random((5, 3, 32, 32), np.float32), np.arange(5)
    Trainer(model, ([images], [images]), TrainOptions(epochs=1, batch=5), out=out).fit()
    return out / "checkpoint.safetensors"


def resnet18(classes):
    return package.graphs.resnet18(num_classes=classes, width=0.0625, input_shape=(3, 32, 32))


def cifar(folder, weights):
    """He et al. 2016, section 4.2: padded by 4, cut at random, flipped; the rate falls in steps."""
    data = PictureFolder(
        folder, (16, 16), 3, Augmentation(crop="padded", flip=0.5), workers=0,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    )  # fmt: skip
    graph = package.graphs.cifar_resnet20(num_classes=10, width=0.25, input_shape=(3, 16, 16))
    options = TrainOptions(
        epochs=2, batch=8, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_vectors=False, schedule="step",
        milestones=(1,), gamma=0.1, warmup_epochs=0,
    )  # fmt: skip
    return package.compile(graph, "train", 8, executor="numpy"), data, options


def imagenet(folder, weights):
    data = PictureFolder(
        folder, (32, 32), 3, Augmentation(crop="resized", flip=0.5, trivial=True, erasing=0.1), workers=0,
        corrupt="skip",
    )  # fmt: skip
    graph = package.graphs.resnet50(num_classes=4, width=0.0625, input_shape=(3, 32, 32))
    options = TrainOptions(
        epochs=2, batch=6, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-5, decay_vectors=False,
        schedule="cosine", warmup_epochs=1, mixup=0.2, cutmix=1.0, ema=0.9999,
    )  # fmt: skip
    loss = Loss(label_smoothing=0.1, mixed=True)
    return package.compile(graph, "train", 6, "bf16", executor="numpy", loss=loss), data, options


def fine_tuned(folder, weights):
    data = PictureFolder(folder, (32, 32), 3, Augmentation(crop="resized", flip=0.5), workers=0)
    frozen = ["conv1", "bn1", "layer1"]
    loss = Loss(label_smoothing=0.1)
    model = package.compile(resnet18(3), "train", 6, executor="numpy", loss=loss, freeze=frozen)
    learned = load_checkpoint(weights).state
    model.load_state_dict({**learned, **{n: x for n, x in model.state_dict().items() if n.startswith("fc.")}})
    options = TrainOptions(
        epochs=2, batch=6, lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_vectors=False,
        schedule="cosine", warmup_epochs=0.5, clip=1.0, groups=(ParameterGroup("fc", lr=10.0),),
    )  # fmt: skip
    return model, data, options


WRITTEN = {"resnet20-cifar10": cifar, "resnet50-imagenet": imagenet, "fine-tune": fine_tuned}


def command(name, recipe, folders, weights):
    """The command that the recipe's heading gives, with what makes it small."""
    model = ("resnet18", "--weights", weights) if name == "fine-tune" else ()
    return ("train", *model, "--recipe", recipe, "--data", folders[name], "--workers", 0, *SMALL[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "50" in name else []) for name in RECIPES]
)
def test_a_recipe_runs_to_its_end_as_the_same_settings_in_python(tricnn, folders, weights, tmp_path, name):
    ran = tricnn(*command(name, RECIPES[name], folders, weights), "--out", tmp_path / "run")
    assert ran.status == 0, ran.err
    model, data, options = WRITTEN[name](folders[name], weights)
    wanted = Trainer(model, data, options).fit()
    assert f"state_sha256 {wanted.state_sha256}" in ran.out
    (*_, last) = csv.DictReader((tmp_path / "run" / "epochs.csv").open())
    assert float(last["test_loss"]) == wanted.history["epochs"][-1]["test_loss"]  # of the running average
    if name == "resnet50-imagenet":
        assert "n01/2.jpg: cannot be read" in "".join(ran.err.split("\n"))
        averaged = package.compile(model.graph, executor="numpy")
        averaged.load_state_dict(str(tmp_path / "run" / "averaged.safetensors"))
        assert state_sha256(averaged.state_dict()) != wanted.state_sha256
    if name == "fine-tune":
        assert "fc.weight, fc.bias not of 3 classes: left at the initial values" in " ".join(ran.err.split())
        before, after = (load_checkpoint(path).state for path in (weights, tmp_path / "run" / "checkpoint.safetensors"))
        kept = [n for n in before if n.split(".")[0] in ("conv1", "bn1", "layer1")]
        assert len(kept) > 20 and all(before[n].tobytes() == after[n].tobytes() for n in kept)
        assert before["layer2.0.conv1.weight"].tobytes() != after["layer2.0.conv1.weight"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_recipe_makes_a_difference(tricnn, folders, weights, tmp_path, name):
    """Each with another value in its place."""
    given = tomllib.loads(RECIPES[name].read_text())
    words = command(name, "r.toml", folders, weights)
    short = dict(zip(words[-len(SMALL[name]) :: 2], words[-len(SMALL[name]) + 1 :: 2], strict=True))
    lasting = [word for option in ("--width", "--input") for word in (option, short.pop(option))]
    settings = dict(flat(given, name)) | {option.strip("-"): value for option, value in short.items()}
    settings.pop("input", None)

    def outcome(**changed):
        lines = [f"{key} = {repr(value).lower()}" for key, value in (settings | changed).items()]
        Path("r.toml").write_text("\n".join(lines))
        ran = tricnn(*words[: -len(SMALL[name])], *lasting, "--out", "run", "--json")
        return ran.status or (
            ran.json["state_sha256"],
            Path("run/epochs.csv").read_text().split("\n")[1].split(",")[3:5],
        )

    whole = outcome()
    assert whole == outcome() != 2
    for option in settings.keys() - {"model"}:
        changed = {option: OTHER[option]}
        if option == "schedule":
            changed["milestones"] = []
        assert outcome(**changed) != whole, option
