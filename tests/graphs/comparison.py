"""A network as tricnn differentiates and interprets it, against a torch module with autograd, both in float64."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tricnn.compiler.differentiate import differentiate
from tricnn.compiler.specialise import for_inference, for_training, tidy
from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.ir import Graph
from tricnn.run.interpreter import interpret

from .reference import REFERENCE
from .reference.lenet import LeNet5

BATCH = 2
#: deeper members made of the same blocks as a shallower one
DEEP = (
    "resnet34", "resnet34_v2", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56",
    "resnet101", "resnet152", "resnet101_v2", "resnet152_v2", "cifar_resnet110", "vgg13", "vgg19", "vgg19_bn",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2", "densenet161", "densenet169", "densenet201",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0",
    "mnasnet1_3", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5",
    "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s", "regnet_y_400mf", "regnet_x_400mf", "regnet_x_800mf",
    "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf",
    "regnet_y_8gf", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "repvgg_a1", "repvgg_a2", "repvgg_b0",
    "repvgg_b1", "convnext_small", "convnext_base",
)  # fmt: skip


def without_dropout(name: str) -> dict[str, float]:
    """Arguments that leave out of an architecture what draws random numbers."""
    drawing = ("dropout", "stochastic_depth")
    return {p: 0.0 for p in inspect.signature(ARCHITECTURES[name]).parameters if p.endswith(drawing)}


def small(name: str, **options: Any) -> Graph:
    """The small member with the true topology, dropout left out."""
    return ARCHITECTURES[name](**{**SMALL[name], **without_dropout(name), **options})


@dataclass
class Case:
    """One network in both worlds, with the same weights and the same batch."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)  # of the architecture
    reference: dict[str, Any] = field(default_factory=dict)  # of the torch module, beyond those
    seed: int = 0

    def __post_init__(self) -> None:
        self.graph = small(self.name, **self.options)
        arguments = {**SMALL[self.name], **self.options}
        classes, width = arguments.get("num_classes", 10), arguments.get("width", 1.0)
        extra = {k: v for k, v in self.options.items() if k in ("aux", "stride_on")}
        self.module = REFERENCE[self.name](classes, width, **extra, **self.reference).double()
        rng = np.random.default_rng(self.seed)
        self.x = rng.normal(size=(BATCH, *self.graph.inputs[0].attrs["shape"][1:]))
        self.labels = rng.integers(0, classes, (BATCH, *self.graph.rows))
        with torch.no_grad():
            self.module(torch.from_numpy(self.x))  # lazy modules find their sizes
        self.state = {n: draw(rng, n, self.graph) for n in state_shapes(self.graph)}
        load(self.module, self.state)

    def expected(self) -> dict[str, np.ndarray]:
        """Loss, gradients and running statistics after the step by PyTorch, under tricnn's names."""
        self.module.train()
        result = self.module(torch.from_numpy(self.x))
        logits, heads = result if isinstance(result, tuple) else (result, {})
        weights = {o.name: o.loss_weight for o in self.graph.outputs if o.training_only}
        assert set(heads) == set(weights)
        labels = torch.from_numpy(self.labels)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        for head, head_logits in heads.items():
            weight = 0.5 if self.graph.rows else HEAD_WEIGHTS[head]  # torchvision's reference training
            loss = loss + weight * torch.nn.functional.cross_entropy(head_logits, labels)
        loss.backward()
        values = {"loss": loss.detach().numpy()}
        values |= {f"grad:{n}": gradient for n, gradient in named(self.module, gradients=True).items()}
        values |= {n: v for n, v in named(self.module).items() if "running_" in n}
        return values

    def computed(self) -> dict[str, np.ndarray]:
        step = differentiate(tidy(for_training(self.graph)))
        return interpret(
            step, {"x": self.x, "labels": self.labels[:, None] if self.graph.rows else self.labels, **self.state}
        )

    def inferred(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits in inference, by tricnn and by PyTorch."""
        load(self.module, self.state)
        self.module.eval()
        with torch.no_grad():
            expected = self.module(torch.from_numpy(self.x)).numpy()
        return interpret(for_inference(self.graph), {"x": self.x, **self.state})["logits"], expected


#: what the papers (GoogLeNet, section 5) and the published training scripts (Inception-v3) weigh the heads' losses with
HEAD_WEIGHTS = {"aux1": 0.3, "aux2": 0.3, "aux": 0.4}


def state_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {n.name: graph.types[n.name].per_image for n in (*graph.parameters, *graph.buffers)}


def draw(rng: np.random.Generator, name: str, graph: Graph) -> np.ndarray:
    """Weights that keep activations near 1, everything else away from the values it starts with."""
    shape = graph.types[name].per_image
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return rng.normal(size=shape) * 0.2
    return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))


def named(module: torch.nn.Module, gradients: bool = False) -> dict[str, np.ndarray]:
    """A module's state (or the gradients of its parameters) by tricnn's names."""
    if gradients:
        state = {n: p.grad.numpy().copy() for n, p in module.named_parameters()}
    else:
        state = {n: v.numpy().copy() for n, v in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    if isinstance(module, LeNet5):
        for what in ("weight", "bias"):
            for seen in (3, 4, 6):
                maps = [i for i in range(16) if len(module.sees[i]) == seen]
                state[f"c3.see{seen}.{what}"] = np.concatenate([state.pop(f"c3.{i}.{what}") for i in maps])
    return state


def load(module: torch.nn.Module, state: dict[str, np.ndarray]) -> None:
    """Names and shapes must be the same, to the last one."""
    assert {n: v.shape for n, v in named(module).items()} == {n: v.shape for n, v in state.items()}
    state = dict(state)
    if isinstance(module, LeNet5):
        for what in ("weight", "bias"):
            for seen in (3, 4, 6):
                maps = [i for i in range(16) if len(module.sees[i]) == seen]
                parts = np.split(state.pop(f"c3.see{seen}.{what}"), len(maps))
                state |= {f"c3.{i}.{what}": part for i, part in zip(maps, parts)}
    counts = {n: v for n, v in module.state_dict().items() if n.endswith("num_batches_tracked")}
    module.load_state_dict({**{n: torch.from_numpy(v.copy()) for n, v in state.items()}, **counts})
