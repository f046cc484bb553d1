"""Train a network on a data set of images and test it after every epoch.
Without a GPU, and without --width or --input, the network is a small member of its family: the same layers with fewer
channels, on smaller images."""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import replace
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .arguments import (
    UsageError,
    add_fusion,
    add_model,
    check_memory,
    dtype,
    file_path,
    load_graph,
    real,
    sizes,
    small_arguments,
    whole,
)
from .recipe import with_recipe
from .train_data import add_data_arguments, data_of, fitted, on_images
from .train_loss import add_loss_arguments, check_loss, loss_of

if TYPE_CHECKING:
    from pathlib import Path

    from tricnn.ir import Graph
    from tricnn.run.model import Model
    from tricnn.training import TrainOptions, TrainResult
    from tricnn.training.batch_sources import Source
    from tricnn.training.options import ParameterGroup
    from tricnn.training.processes import Processes

    from .screen import Screen

EXAMPLES = """\
examples:
  tricnn train lenet --data digits --out out/digits
  tricnn train lenet --data digits --out out/digits --resume     goes on after a crash, to the same bits
  tricnn train resnet18 --data digits            without a GPU: a small member of the same topology
  tricnn train resnet18 --data digits --weights resnet18.pth --classes 1000 --input 3,224,224
  tricnn train resnet18 --data pictures/ --trivial-augment --corrupt skip      pictures/train/cat/1.jpg, ...
  tricnn train --recipe recipes/resnet50-imagenet.toml --data imagenet/ --out out/resnet50
  tricnn train resnet18 --recipe recipes/fine-tune.toml --weights resnet18.pth --data pictures/
  tricnn train resnet18 --synthetic              how fast it is where data cost nothing
  tricnn train lenet --data fashion-mnist --epochs 10
  tricnn train cifar_resnet20 --input 1,28,28 --data fashion-mnist --nesterov --weight-decay 1e-4

data sets: digits (scikit-learn's handwritten digits, at hand), fashion-mnist, mnist (files in --data-dir, $TRICNN_DATA
or from Debian's dataset-fashion-mnist; downloaded otherwise), or a folder of pictures with train/CLASS/*.jpg and
val/CLASS/*.jpg. Images are resized to the network's input.
Many GPUs or processes: torchrun --nproc-per-node 8 -m tricnn train ...; --batch is that of all of them together.
--out holds the checkpoint (safetensors, PyTorch's names) and a picture of the training curve. --weights takes such a
checkpoint too, and what PyTorch, torchvision and timm write (.pth, .safetensors).
"""

#: with them LeNet gets more than 98 % of digits with every seed tried (0 to 13, where a rate of 0.05 failed with one)
DEFAULTS: dict[str, Any] = {
    "epochs": 20, "batch": 64, "seed": 0, "checkpoint_seconds": 10.0, "lr": 0.02, "momentum": 0.9,
    "weight_decay": 5e-4, "schedule": "cosine", "warmup": 0.5, "gamma": 0.1,
    "loss_scale": 65536, "growth_interval": 2000,
}  # fmt: skip

OPTIMISERS = ("sgd", "adamw", "lars", "lamb")

RATE = f"{DEFAULTS['lr']}; 0.08/depth for more than 5 layers without batch norm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def setting(group: argparse._ActionsContainer, name: str, kind: Any, letter: str, about: str = "") -> None:
        default = DEFAULTS[name.removeprefix("--").replace("-", "_")]
        group.add_argument(name, type=kind, default=default, metavar=letter, help=f"{about} ({default})".strip())

    add_model(parser, images=False)
    parser.add_argument(
        "--recipe", type=file_path, metavar="FILE", help="options from a TOML file; those given here win"
    )
    add_data_arguments(parser)
    setting(parser, "--epochs", whole(1), "N", "how often all training images are seen")
    setting(parser, "--batch", whole(1), "N", "images in a batch")
    setting(parser, "--seed", whole(0), "S", "of the parameters, the order and dropout")
    parser.add_argument(
        "--weights", type=file_path, metavar="FILE", help="parameters to start from: a .safetensors, .pth or .pt file"
    )
    parser.add_argument("--weights-key", metavar="NAME", help="which of several in that file: model_ema")
    parser.add_argument("--out", type=file_path, metavar="DIR", help="keep the checkpoint and the training curve there")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    setting(parser, "--checkpoint-seconds", real(), "T", "save every T seconds between epochs, too")
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="the GPU if there is one (auto)"
    )
    where.add_argument(
        "--executor", default="auto", metavar="E", help="triton, numpy, eager (triton on a GPU, else numpy)"
    )
    where.add_argument(
        "--dtype", type=dtype, default="fp32", metavar="D", help="fp32, tf32, fp16, bf16, or fp64 (fp32)"
    )
    add_fusion(where)
    how = parser.add_argument_group("how it learns")
    how.add_argument("--lr", type=real(above=True), metavar="R", help=f"learning rate ({RATE})")
    setting(how, "--momentum", real(0, 0.9999), "M", "of gradient descent")
    how.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    setting(how, "--weight-decay", real(), "W", "of weights; biases and batch norm have none")
    how.add_argument(
        "--freeze",
        type=_names,
        default=(),
        metavar="NAME,NAME",
        help="layers and parameters that are not trained: conv1,layer1",
    )
    how.add_argument(
        "--groups", type=_groups, default=(), metavar="G,G",
        help="parameters with their own share of --lr, or weight decay: 'fc lr=10,*.gamma weight-decay=0'",
    )  # fmt: skip
    setting(how, "--schedule", str, "S", "constant, step or cosine")
    setting(how, "--warmup", real(), "E", "epochs in which the rate grows to --lr")
    how.add_argument(
        "--milestones",
        type=_epochs,
        default=(),
        metavar="E,E",
        help="of --schedule step: the epochs at which the rate is multiplied by --gamma",
    )
    how.add_argument(
        "--sizes",
        type=_sizes,
        default=(),
        metavar="S,S:E",
        help="sides of training images: 128,160:10,224:20 is 160 from epoch 10, 224 from 20 on (that of --input)",
    )
    setting(how, "--gamma", real(above=True), "G", "of --schedule step: what the rate is multiplied by")
    how.add_argument("--optimiser", default="sgd", choices=OPTIMISERS, help="sgd, adamw, lars or lamb (sgd)")
    add_loss_arguments(how)
    how.add_argument(
        "--clip",
        type=real(above=True),
        metavar="C",
        help="the largest norm of all gradients; a larger one is scaled down to it",
    )
    how.add_argument(
        "--accumulate", type=whole(1), default=1, metavar="N", help="add the gradients of N batches for one update (1)"
    )
    setting(how, "--loss-scale", real(above=True), "S", "of fp16: the loss's first factor, halved where it overflows")
    setting(how, "--growth-interval", whole(1), "N", "of fp16: finite steps on end after which it doubles")
    how.add_argument(
        "--ema",
        type=real(0, 0.999999),
        metavar="D",
        help="keep a running average of weights with decay D, and test that",
    )
    how.add_argument(
        "--sync-batch-norm",
        action="store_true",
        help="of several processes: batch norm takes statistics over all of them",
    )
    how.add_argument(
        "--mixup",
        type=real(),
        default=0.0,
        metavar="A",
        help="mixup: blend pairs of images, with shares drawn from Beta(A, A) (0: off)",
    )
    how.add_argument(
        "--cutmix",
        type=real(),
        default=0.0,
        metavar="A",
        help="CutMix: a rectangle of one image in another, its share from Beta(A, A) (0: off)",
    )


def _epochs(text: str) -> tuple[int, ...]:
    epochs = tuple(whole(1)(part.strip()) for part in text.split(","))
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not epochs that increase, such as 10,15")
    return epochs


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    from tricnn.system.errors import TricnnError
    from tricnn.training.image_sizes import check_sizes

    parts = [part.strip().partition(":") for part in text.split(",")]
    sizes = tuple((whole(1)(epoch or "1"), whole(1)(side)) for side, _, epoch in parts)
    try:
        check_sizes(sizes)
    except TricnnError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not sides and epochs such as 128,160:10,224:20") from None
    return sizes


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _groups(text: str) -> tuple[ParameterGroup, ...]:
    from tricnn.training.options import ParameterGroup

    kinds = {"lr": "lr", "weight-decay": "weight_decay", "weight_decay": "weight_decay"}
    groups = []
    for part in _names(text):
        pattern, *settings = part.split()
        given = [setting.partition("=") for setting in settings]
        if not given or any(name not in kinds or not value for name, _, value in given):
            raise argparse.ArgumentTypeError(
                f"{part[:60]!r} is no group of parameters: a name, then lr=FACTOR, weight-decay=W or both"
            )
        groups.append(ParameterGroup(pattern, **{kinds[name]: real()(value) for name, _, value in given}))
    return tuple(groups)


def expanded(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The command line with the options of its recipe."""
    return with_recipe(arguments, parser)


def run(options: argparse.Namespace) -> int:
    if options.resume and not options.out:
        raise UsageError("--resume needs --out DIR, the folder that holds the checkpoint")
    if (options.schedule == "step") != bool(options.milestones):
        raise UsageError("--schedule step needs --milestones E,E, and no other schedule takes them")
    loss_of(options)
    choose_device(options.device)
    asked = load_graph(options)  # whatever is wrong with it is said before the data are fetched
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and options.out:
        options.resume = True  # torchrun started all processes anew, for one of them was lost
    from tricnn.training.processes import joined

    with joined() as processes:
        return run_among(processes, options, asked)


def run_among(processes: Processes, options: argparse.Namespace, asked: Graph) -> int:
    """Train, as one of several processes or alone; the exit status is returned."""
    from ..report.figures import plural
    from .screen import Screen

    screen = Screen(options.json, speaks=processes.first)
    dataset = data_among(processes, options, asked, screen)
    small = member(options)
    graph = load_graph(options, **{**small, "num_classes": dataset.num_classes})
    full = load_graph(options, num_classes=dataset.num_classes) if small else None
    dataset = fitted(dataset, graph)
    graph = on_images(graph, dataset, options, runs_on_gpu(options.executor))
    if not runs_on_gpu(options.executor):
        check_memory(graph, min(-(-options.batch // processes.world), len(dataset)), "train")
    about = size_of(graph, options) + (f", {processes.world} processes" if processes.world > 1 else "")
    model, result = train(graph, dataset, options, screen, about, processes)
    screen.json({
        "graph": graph.name,
        **sizes(graph, full),
        "data": dataset.name,
        "executor": model.executor.name,
        "device": model.device,
        **({"processes": processes.world} if processes.world > 1 else {}),
        "seed": options.seed,
        "epochs": result.epochs,
        "train_loss": result.train_loss,
        "test_accuracy": result.test_accuracy,
        "images_per_second": result.images_per_second,
        "state_sha256": result.state_sha256,
        **({"skipped_pictures": result.skipped_pictures} if getattr(dataset, "corrupt", "fail") == "skip" else {}),
    })  # fmt: skip
    screen.show(
        f"{graph.name}{', a small member,' * bool(small)} on {dataset.name}: test accuracy {result.test_accuracy:.2%} "
        f"after {plural(result.epochs, 'epoch')} ({result.images_per_second:,.0f} images/s, {model.executor.name} "
        "executor)",
        f"state_sha256 {result.state_sha256}",
    )
    if result.checkpoint:
        screen.show(f"checkpoint in {result.checkpoint}", *picture(result, graph, dataset))
    return 0


def data_among(processes: Processes, options: argparse.Namespace, asked: Graph, screen: Screen) -> Source:
    """The data set: the first process fetches what must be fetched, then the others find it there."""
    found = []
    note = screen.progress.print if screen.progress else None
    processes.from_first(lambda: found.append(data_of(options, asked.classes, note)))
    return found[0] if found else data_of(options, asked.classes, None)


def member(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments that make an architecture small enough to train here: none on a GPU, or if the user chose a size.

    It is the small member (``tricnn.graphs.SMALL``), twice as wide. Dropout falls with the width, for a layer that
    loses units needs the more of them (Srivastava et al. 2014, appendix A.1), and these have few.
    """
    from tricnn.graphs import ARCHITECTURES

    small = dict(small_arguments(options.model))
    if options.input or options.width or runs_on_gpu(options.executor) or "width" not in small:
        return {}
    width = 2 * small["width"]
    parameters = signature(ARCHITECTURES[options.model]).parameters.values()
    return {**small, "width": width, **{p.name: p.default * width for p in parameters if p.name.endswith("dropout")}}


def runs_on_gpu(executor: str) -> bool:
    from tricnn.run.model import gpu_present
    from tricnn.run.triton_executor import interpreting

    return executor != "numpy" and gpu_present() and not interpreting()


def size_of(graph: Graph, options: argparse.Namespace) -> str:
    """A line that says which size is trained, and at which rate."""
    channels, height, width = graph.types[graph.inputs[0].name].per_image
    size = f"{graph.num_parameters:,} parameters, images {channels}x{height}x{width}"
    if small := member(options):
        size += f" (a small member, for there is no GPU: width {small['width']:g}; --width and --input choose)"
    return f"{graph.name}: {size}, learning rate {options.lr or rate(graph):.3g}"


def choose_device(device: str) -> None:
    """Hide the GPU for ``cpu``; raise UsageError for ``cuda`` where there is none.
    This must come before torch is imported."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""
    elif device == "cuda":
        from tricnn.run.model import gpu_present

        if not gpu_present():
            raise UsageError("--device cuda: there is no CUDA device that PyTorch can use; --device cpu runs anywhere")


def train(
    graph: Graph,
    dataset: Source,
    options: argparse.Namespace,
    screen: Screen,
    about: str | None = None,
    processes: Processes | None = None,
) -> tuple[Model, TrainResult]:
    """Compile for training and for inference, and run the loop, which says ``about`` first."""
    from tricnn.run.model import compile
    from tricnn.run.weight_names import fitted
    from tricnn.run.weights import load_weights
    from tricnn.training import train
    from tricnn.training.checkpoint import state_sha256
    from tricnn.training.fine_tuning import without_head
    from tricnn.training.gradient_exchange import BUCKET_BYTES
    from tricnn.training.processes import ALONE

    processes = processes or ALONE
    settings = replace(training_options(options, graph), processes=processes)
    loss = loss_of(options)
    check_loss(loss, graph, dataset)
    executor = options.executor
    with screen.waiting(f"compiling {graph.name}"):
        model = compile(
            graph, "train", -(-options.batch // processes.world), options.dtype, executor, None, options.fuse,
            seed=options.seed, loss=loss, bucket_bytes=BUCKET_BYTES if processes.world > 1 else None,
            freeze=options.freeze,
        )  # fmt: skip
    executor = model.executor.name
    if options.weights:
        own = model.state_dict()
        loaded = fitted(load_weights(options.weights, options.weights_key), {n: x.shape for n, x in own.items()})
        state, left = without_head(graph, loaded, own)
        model.load_state_dict(state if left else options.weights, key=None if left else options.weights_key)
        if left and screen.progress:
            count = graph.types[left[0]].per_image[0]
            screen.progress.print(
                f"{options.weights}: {', '.join(left)} not of {count} classes: left at the initial values",
                markup=False,
            )
    settings = replace(settings, fixed={
        "executor": executor, "dtype": options.dtype, "fuse": options.fuse,
        "label smoothing": loss.label_smoothing,
        "weights of SHA-256": state_sha256(model.state_dict())[:16] if options.weights else None,
    })  # fmt: skip
    evaluator = compile(graph, "infer", settings.evaluation_batch, options.dtype, executor, None, options.fuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow: the loop itself says when it diverges
        return model, train(model, evaluator, dataset, settings, options.out, options.resume, screen.progress, about)


def rate(graph: Graph) -> float:
    """The learning rate where none is given.
    0.02 suits batch norm, and a shallow network. In a deeper one nothing keeps the scale of what each layer hands on,
    and steps must be smaller (AlexNet: 94 to 98 % of digits at 0.02, 97 to 99 % at 0.01)."""
    from tricnn.ir import Kind

    depth: dict[str, int] = {}  # layers with weights, on the longest way to a value
    for node in graph.nodes:
        depth[node.name] = max((depth[v] for v in node.inputs), default=0) + (node.kind is Kind.CONTRACTION)
    deepest = max(depth.values())
    return float(DEFAULTS["lr"]) if any(n.row.running for n in graph.nodes) or deepest <= 5 else 0.08 / deepest


def training_options(options: argparse.Namespace, graph: Graph) -> TrainOptions:
    from tricnn.training import LossScaling, TrainOptions

    return TrainOptions(
        epochs=options.epochs, batch=options.batch, seed=options.seed, lr=options.lr or rate(graph),
        momentum=options.momentum, nesterov=options.nesterov, weight_decay=options.weight_decay, decay_vectors=False,
        schedule=options.schedule, warmup_epochs=options.warmup, milestones=options.milestones, gamma=options.gamma,
        optimiser=options.optimiser, clip=options.clip, accumulate=options.accumulate, ema=options.ema,
        groups=options.groups, mixup=options.mixup, cutmix=options.cutmix,
        shift=1 if options.shift is None else options.shift, sync_batch_norm=options.sync_batch_norm,
        checkpoint_seconds=options.checkpoint_seconds,
        sizes=options.sizes,
        loss_scaling=LossScaling(float(options.loss_scale), growth_interval=options.growth_interval),
    )  # fmt: skip


def picture(result: TrainResult, graph: Graph, dataset: Source) -> list[str]:
    """Draw the training curve beside the checkpoint; a line that says so is returned."""
    from tricnn.system.errors import DataError
    from tricnn.training.plot import save_curve

    assert result.checkpoint is not None
    path: Path = result.checkpoint.with_name("curve.png")
    try:
        return [f"training curve in {save_curve(result.history, path, f'{graph.name} on {dataset.name}')}"]
    except DataError as error:
        return [f"no picture: {error}"]
