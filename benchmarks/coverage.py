"""How many of other people's networks come in, and compute the same: every CNN of torchvision and timm, one by one.

    python -m benchmarks.coverage --models 'timm:resnet*' --stage logits --shard 1/4 --again failed

In the environment of ``make compat``. One JSON object a line goes to benchmarks/coverage.jsonl for each network; what
was done at this commit is passed over, so a sweep that was interrupted goes on. ``python -m benchmarks.coverage_page``
makes docs/coverage.md of it.

Each network is made as published, with random weights, in a process of its own, which is ended after ``--seconds`` or
when it takes more than ``--gigabytes``. The images are the smallest of ``SIZES`` that the network itself takes.

import      the network comes in by :func:`tricnn.from_torch` in train(), without weights, and its plan is not made.
logits      it comes in in eval(), and its outputs are PyTorch's, in float64: the largest difference is ``LOGITS`` of
            the largest number at most. Ours are computed node by node through ATen.
gradients   the same, and it comes in in train(), where outputs and the gradients of all parameters are PyTorch's, in
            float64, with dropout and stochastic depth switched off: of each gradient, the difference is ``GRADIENTS``
            of its largest number at most, or ``ROUNDING`` of the largest of all gradients, which is what that of a bias
            before a batch norm is made of.

A network is a CNN if it has a 2-d convolution whose windows overlap, and neither a product of two computed tensors
(matmul, bmm, einsum, attention) nor three-dimensional layers.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tricnn
from tricnn.frontends.assembler import NotImported
from tricnn.system.errors import TricnnError

from .coverage_record import GRADIENTS, RECORD, STAGES, passed, reaches, read

SIZES = (64, 96, 128, 192, 224, 256, 299, 331, 384)
BATCH = 3
ROUNDING = 1e-9

#: timm's files of transformers and mixers, whose networks are not looked at one by one
NO_CNNS = (
    "beit", "cait", "coat", "convit", "crossvit", "davit", "deit", "edgenext", "efficientformer", "efficientformer_v2",
    "efficientvit_msra", "eva", "gcvit", "hiera", "hieradet_sam2", "levit", "maxxvit", "mlp_mixer", "mvitv2",
    "naflexvit", "nest", "nextvit", "pit", "pvt_v2", "repvit_sam", "sequencer", "shvit", "swiftformer",
    "swin_transformer",
    "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins", "visformer", "vision_transformer",
    "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo", "xcit",
)  # fmt: skip

#: functions of PyTorch that multiply what was computed with what was computed
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "mm", "einsum", "scaled_dot_product_attention")


# --- the networks -----------------------------------------------------------------------------------------------------


def torchvision_networks() -> list[str]:
    """Every classification and segmentation model of torchvision."""
    from torchvision import models

    names = [*models.list_models(models), *models.list_models(models.segmentation)]
    return [f"torchvision:{name}" for name in sorted(names)]


def timm_networks() -> list[str]:
    """Every model of timm outside its files of transformers."""
    import timm
    from timm.models import _registry

    return [f"timm:{name}" for name in timm.list_models() if _registry._model_to_module.get(name) not in NO_CNNS]


def segmentation_networks() -> list[str]:
    """Every architecture of segmentation-models-pytorch, on a ResNet-18, but for SegFormer and DPT: transformers."""
    import segmentation_models_pytorch as smp

    return [f"smp:{name}" for name in smp.MODEL_ARCHITECTURES_MAPPING if name not in ("segformer", "dpt")]


COLLECTIONS: dict[str, Callable[[], list[str]]] = {
    "torchvision": torchvision_networks,
    "timm": timm_networks,
    "smp": segmentation_networks,
}


def family(name: str) -> str:
    """The file that a network is declared in."""
    kind, _, network = name.partition(":")
    if kind == "timm":
        from timm.models import _registry

        return str(_registry._model_to_module.get(network, ""))
    if kind == "torchvision":
        from torchvision import models

        return models.get_model_builder(network).__module__.rpartition(".")[2]
    return "segmentation"


def made(name: str) -> tuple[torch.nn.Module, int, list[int]]:
    """A network with random weights as published, its images' channels, and the sizes that they may have."""
    kind, _, network = name.partition(":")
    if kind == "timm":
        import timm

        module = timm.create_model(network, pretrained=False)
        config = module.default_cfg
        channels, size, _ = config["input_size"]
        return module, channels, [size] if config.get("fixed_input_size") else [*SIZES, size]
    if kind == "torchvision":
        from torchvision import models

        options = {"init_weights": False} if network in ("googlenet", "inception_v3") else {}
        return models.get_model(network, weights=None, **{**options, **_heads(network)}), 3, [*SIZES]
    import segmentation_models_pytorch as smp

    return smp.create_model(network, "resnet18", encoder_weights=None), 3, [*SIZES]


def _heads(network: str) -> dict[str, Any]:
    """The second head that segmentation networks are trained with."""
    if network.startswith(("fcn", "deeplab")):
        return {"weights_backbone": None, "aux_loss": True}
    return {"weights_backbone": None} if network.startswith("lraspp") else {}


class NumbersInMemory(torch.overrides.TorchFunctionMode):
    """A mode in which ranges and lists of numbers are on the CPU, whatever device is chosen for other tensors."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


def unfilled(make: Callable[[], Any]) -> Any:
    """What ``make`` makes on the meta device, which has no memory.
    Networks whose widths are computed of ranges and lists of numbers (RegNets) are made again with these in memory; not
    all are, for a range in memory and a tensor without any cannot be added."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        # PyTorch raises it where a constructor asks a tensor without memory for its numbers, and only by trying can be
        # known which constructors do. Whatever else it may stand for is raised again by the second attempt.
        with torch.device("meta"), NumbersInMemory():
            return make()


# --- what is looked at in one network ---------------------------------------------------------------------------------


class Calls(torch.overrides.TorchFunctionMode):
    """Notes whether a forward pass is a CNN's."""

    def __init__(self) -> None:
        super().__init__()
        self.overlapping = self.products = self.three = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name == "conv2d":
            bound = dict(zip(("input", "weight", "bias", "stride"), args)) | (kwargs or {})
            stride = bound.get("stride", 1)
            strides = [stride] * 2 if isinstance(stride, int) else list(stride) * (3 - len(stride))
            self.overlapping |= any(k > s for k, s in zip(bound["weight"].shape[2:], strides))
        self.products |= name in PRODUCTS
        self.three |= name.endswith("3d")
        return function(*args, **(kwargs or {}))

    @property
    def cnn(self) -> bool:
        return self.overlapping and not self.products and not self.three


def smallest(module: torch.nn.Module, channels: int, sizes: Sequence[int]) -> tuple[int, bool]:
    """The first size of image that a module on the meta device takes, and whether it is a CNN."""
    for size in sizes:
        calls = Calls()
        try:
            with calls, torch.no_grad():
                module(torch.empty(2, channels, size, size, device="meta"))
        except Exception:
            if size == sizes[-1]:
                raise
            continue
        return size, calls.cnn
    raise AssertionError("no size")


def looked_at(name: str, stage: str) -> dict[str, Any]:
    """What is found of one network, as far as ``stage``."""
    found: dict[str, Any] = {}
    module, channels, sizes = unfilled(partial(made, name))
    size, found["cnn"] = smallest(module.train(), channels, sizes)
    found["image"] = [channels, size, size]
    found["parameters"] = sum(p.numel() for p in module.parameters())
    if not found["cnn"]:
        return found
    try:
        if stage == "import":
            tricnn.from_torch(module, (2, channels, size, size), cache=False)
            return found | {"imported": True}
        del module
        compared(name, (BATCH, channels, size, size), stage, found)
        return found
    except NotImported as error:
        return found | {"imported": False, "problems": sorted({f"{p.operation}: {p.reason}" for p in error.problems})}
    except TricnnError as error:
        return found | {"imported": found.get("imported", False), "problems": [" ".join(str(error).split())[:300]]}
    except Exception as error:
        return found | {"problems": [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]}


def compared(name: str, shape: tuple[int, ...], stage: str, found: dict[str, Any]) -> None:
    """Note how far outputs and gradients are from PyTorch's."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    module = settled(lively(made(name)[0]), x)
    for layer in module.modules():  # some call F.dropout with a number of their own
        if isinstance(getattr(layer, "drop_rate", None), float):
            layer.drop_rate = 0.0
    ours = tricnn.Module(module, shape, dtype="fp64", executor="eager", fuse=False)
    module.eval(), ours.eval()
    with torch.no_grad():
        with Exactly():
            right = tensors(module(x))
        given = tensors(ours(x))
    found["imported"] = True
    found["logits"] = furthest(given, right)
    if stage != "gradients":
        return
    for part in (module.train(), ours.train()):
        for layer in part.modules():
            if "drop" in type(layer).__name__.lower() or "stochasticdepth" in type(layer).__name__.lower():
                layer.eval()
    statistics = {k: v.clone() for k, v in module.named_buffers()}
    right, expected = trained(module, x)
    with torch.no_grad():
        for key, buffer in module.named_buffers():  # the two share them
            buffer.copy_(statistics[key])
    found["imported"] = False
    given, gradients = trained(ours, x)
    found["imported"] = True
    found["training"] = furthest(given, right)
    largest = max(float(g.abs().max()) for g in expected.values())
    if gradients.keys() != expected.keys():
        only = sorted(gradients.keys() ^ expected.keys())[:3]
        raise ValueError(f"gradients of {only} are there in one of the two only")
    found["gradients"], found["furthest"] = max(
        (apart(gradients[k], g, ROUNDING / GRADIENTS * largest), k) for k, g in expected.items()
    )


class Exactly(torch.overrides.TorchFunctionMode):
    """A mode in which float64 numbers stay so where a layer asks for float32 (EvoNorm's deviation)."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if function is torch.Tensor.float:
                return args[0]
            if function is torch.Tensor.to:
                args = tuple(torch.float64 if a is torch.float32 else a for a in args)
                kwargs |= {"dtype": torch.float64} if kwargs.get("dtype") is torch.float32 else {}
        return function(*args, **kwargs)


def trained(module: torch.nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs, and the gradients of parameters by name of the sum of (output * fixed random numbers)."""
    for p in module.parameters():
        p.grad = None
    with nullcontext() if isinstance(module, tricnn.Module) else Exactly():
        outputs = tensors(module(x))
    generator = torch.Generator().manual_seed(1)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs)
    loss.backward()
    return outputs, {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float64, parameters and statistics away from what hides a fault: no zero, no two alike."""
    module = module.double()
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if not x.is_floating_point():
                continue
            if name.endswith("running_var"):
                x.copy_(0.5 + torch.rand_like(x))
            elif x.numel() < 2 or float(x.std()) == 0:
                x.add_(0.2 * torch.rand_like(x) - 0.1)
    return module


def settled(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """The module with running statistics near those of some images, so that numbers stay of one size from layer to
    layer. With statistics of nothing they grow, until gates stand at 0 or 1, which hides faults, and a rounding error
    grows to a tenth of the logits (EfficientNetV2-M), which looks like one."""
    norms = [layer for layer in module.modules() if getattr(layer, "running_var", None) is not None]
    momenta = [layer.momentum for layer in norms]

    def divided_by_all(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # the variance that the batch was divided by: with PyTorch's n/(n-1) the numbers of 12 pixels shrink, the means
        # that are taken off do not, and what is left of them grows from layer to layer
        layer.running_var.mul_(1 - layer.running_var.numel() / inputs[0].numel())

    hooks = [layer.register_forward_hook(divided_by_all) for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        module.train()(x)
        for layer, momentum, hook in zip(norms, momenta, hooks):
            layer.momentum = momentum
            hook.remove()
            layer.running_var.mul_(1 + 1e-4 * torch.rand_like(layer.running_var))  # no batch's own
    return module


def tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors that a result is made of, in order."""
    return [y for y in torch.utils._pytree.tree_leaves(outputs) if isinstance(y, torch.Tensor)]


def apart(y: torch.Tensor, right: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, relative to the largest number or to ``least``, whichever is more; NaN where there is
    one."""
    scale = max(float(right.detach().abs().max()), least) or 1.0
    return float((y - right).detach().abs().max()) / scale


def furthest(given: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """The largest difference of any output."""
    if [y.shape for y in given] != [y.shape for y in right]:
        raise ValueError(f"outputs {[tuple(y.shape) for y in given]}, PyTorch's are {[tuple(y.shape) for y in right]}")
    return max(apart(y, z) for y, z in zip(given, right))


# --- one after the other ----------------------------------------------------------------------------------------------


class OneLayer(torch.nn.Module):
    """The smallest module that takes an import the usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3))


def ready() -> None:
    """Load once what every network's process would load for itself, and leave it out of the search for garbage.
    What an import needs of PyTorch takes as long to load as a small network takes to import."""
    tricnn.from_torch(unfilled(OneLayer), (2, 3, 8, 8), cache=False)
    gc.collect()
    gc.freeze()


def in_a_process(work: Callable[[], dict[str, Any]], seconds: float, gigabytes: float) -> dict[str, Any]:
    """What ``work`` returns, computed in a copy of this process, or why it was ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
            try:
                found = work()
            except MemoryError:
                found = {"problems": [f"more than {gigabytes:g} GB"]}
            except Exception as error:
                found = {"problems": [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]}
            os.write(writing, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    given, end = b"", time.monotonic() + seconds
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (more := os.read(reading, 2**16)):
            break
        given += more
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    if not given:
        return {"problems": [f"it took more than {seconds:g} s, or more than {gigabytes:g} GB"]}
    return json.loads(given)


def versions() -> dict[str, str]:
    """What the networks come from."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "torchvision", "timm", "segmentation-models-pytorch")}


def commit() -> str:
    """The commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, cwd=RECORD.parent)
    return done.stdout.strip()


def chosen(patterns: str, shard: str) -> list[str]:
    """The names that one of some patterns has; of those every n-th, beginning with the i-th, for the shard i/n."""
    wanted = patterns.split(",")
    kinds = [kind for kind in COLLECTIONS if any(fnmatch.fnmatch(kind, w.partition(":")[0]) for w in wanted)]
    names = [n for kind in kinds for n in COLLECTIONS[kind]() if any(fnmatch.fnmatchcase(n, w) for w in wanted)]
    i, n = map(int, shard.split("/"))
    return names[i - 1 :: n]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="patterns of names, with commas between: timm:resnet*,smp:*")
    parser.add_argument("--stage", choices=STAGES, default="gradients", help="how far each network is looked at")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th network, beginning with the i-th")
    parser.add_argument("--again", choices=("stale", "failed", "missing", "all"), default="stale", help=(
        "which are looked at: those without a line of this commit, those whose last line says that they failed, those "
        "that were never tried as far, or all"))  # fmt: skip
    parser.add_argument("--problem", default="", help="only those whose last line has this text among its problems")
    parser.add_argument("--largest", type=float, default=1e9, help="only those of no more million parameters")
    parser.add_argument("--seconds", type=float, default=300, help="for one network")
    parser.add_argument("--gigabytes", type=float, default=10, help="for one network")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no other network after this time")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names, here, origin = chosen(options.models, options.shard), commit(), versions()
    last: dict[str, dict[str, Any]] = {}
    tried: dict[str, dict[str, Any]] = {}
    for line in read(options.out):
        last[line["model"]] = line
        if reaches(line, options.stage):
            tried[line["model"]] = line

    def due(name: str) -> bool:
        before = tried.get(name)
        if last.get(name, {}).get("parameters", 0) > options.largest * 1e6:
            return False
        if options.problem and not any(options.problem in p for p in last.get(name, {}).get("problems", ())):
            return False
        if before is None or options.again == "all":
            return True
        again = {"stale": before["commit"] != here, "failed": not passed(before, options.stage), "missing": False}
        return again[options.again]

    waiting = [name for name in names if due(name)]
    print(f"{len(names)} networks, {len(waiting)} to look at", flush=True)
    start = time.monotonic()
    if waiting:
        ready()
    for number, name in enumerate(waiting, 1):
        if time.monotonic() - start > options.minutes * 60:
            break
        began = time.monotonic()
        found = in_a_process(partial(looked_at, name, options.stage), options.seconds, options.gigabytes)
        line = {
            "model": name, "family": family(name), "stage": options.stage, **found, "commit": here,
            "date": time.strftime("%Y-%m-%d"), "versions": origin, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        said = "no CNN" if found.get("cnn") is False else "ok" if passed(line, options.stage) else "NOT"
        numbers = " ".join(f"{key} {found[key]:.1e}" for key in ("logits", "training", "gradients") if key in found)
        problems = found.get("problems", "")
        print(f"{number}/{len(waiting)} {name} {said} {numbers} {problems} {line['seconds']} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
