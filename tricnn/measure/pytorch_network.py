"""A declared graph as an ordinary PyTorch module that autograd differentiates: what ``bench`` measures against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tricnn.compiler.specialise import for_inference
from tricnn.ir import OPS, Environment, Graph
from tricnn.ir.table import Kind, Source

REAL = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class PyTorchNetwork(torch.nn.Module):
    """``y = network(x)``, x channels-last; for training, the outputs of all heads."""

    def __init__(self, graph: Graph, mode: str):
        super().__init__()
        self.graph = graph if mode == "train" else for_inference(graph)
        self.train(mode == "train")
        self.environment = Environment()
        self.slot = {n.name: n.name.replace(".", "_dot_") for n in (*self.graph.parameters, *self.graph.buffers)}
        for node in self.graph.parameters:
            self.register_parameter(self.slot[node.name], torch.nn.Parameter(torch.zeros(self.extent(node.name))))
        for node in self.graph.buffers:
            self.register_buffer(self.slot[node.name], torch.zeros(self.extent(node.name)))

    def extent(self, name: str) -> tuple[int, ...]:
        return self.graph.types[name].per_image

    def load(self, state: dict[str, Any]) -> PyTorchNetwork:
        """Take the parameters of a tricnn model (its ``state_dict``)."""
        self.load_state_dict({slot: torch.as_tensor(state[name]) for name, slot in self.slot.items()})
        return self

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        values: dict[str, torch.Tensor] = {}
        for node in self.graph.nodes:
            if node.row.source is Source.INPUT:
                values[node.name] = x
            elif node.name in self.slot:
                values[node.name] = getattr(self, self.slot[node.name])
            elif node.kind is Kind.SOURCE:
                values[node.name] = OPS[node.op].aten(self.environment, node.attrs)
            else:
                values[node.name] = self.layer(node, [values[v] for v in node.inputs])
        return [values[output.value] for output in self.graph.outputs]

    def layer(self, node: Any, operands: list[torch.Tensor]) -> torch.Tensor:
        if node.row.running:
            x, weight, bias, mean, var = operands
            a = node.attrs
            return F.batch_norm(x, mean, var, weight, bias, self.training, a["momentum"], a["eps"])
        if node.row.random:
            return F.dropout(operands[0], node.attrs["p"], self.training)
        casts = node.row.product == "forward" and torch.is_autocast_enabled(operands[0].device.type)
        if casts and not node.row.over_images:
            return F.linear(*operands)  # the table's row casts the weights by itself
        if casts and _symmetric(node.attrs):
            top, _, left, _ = node.attrs["padding"]
            a = node.attrs
            x, weight, *rest = operands
            offset = rest[0] if rest else None
            return F.conv2d(x, weight, offset, a["stride"], (top, left), a["dilation"], a["groups"])
        return OPS[node.op].aten(self.environment, node.attrs, *operands)


def _symmetric(attrs: Any) -> bool:
    top, bottom, left, right = attrs["padding"]
    return bool(top == bottom and left == right)


@dataclass(frozen=True)
class Step:
    """One step on one batch; and the gradients that the last one left, by parameter, in float64 on the host."""

    run: Callable[[], Any]
    gradients: Callable[[], dict[str, torch.Tensor]] = dict

    def __call__(self) -> Any:
        return self.run()


#: of SGD. With a learning rate of 0 an update moves all its bytes, and every step computes the same numbers
MOMENTUM, WEIGHT_DECAY, LEARNING_RATE = 0.9, 1e-4, 0.0


def step(
    graph: Graph, mode: str, state: dict[str, Any], images: Any, labels: Any, dtype: str, device: str,
    wrap: Callable[[Any], Any] = lambda network: network, update: bool = False,
) -> Step:  # fmt: skip
    """One inference, or one forward and backward pass, as PyTorch's users write it.
    It is channels-last; 16-bit inference has 16-bit weights, 16-bit training runs under autocast with fp32 weights.
    ``wrap`` may compile the network; ``update`` adds SGD with momentum, of all parameters at once."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.benchmark = True
    network = PyTorchNetwork(graph, mode).load(state).to(device)
    for p in network.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    x = torch.as_tensor(images).to(device)
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    real, narrow = REAL[dtype], dtype in ("fp16", "bf16")
    if mode == "infer":
        network, x = network.to(real), x.to(real)
        forward = wrap(network)

        def infer() -> Any:
            with torch.no_grad():
                return forward(x)

        return Step(infer)
    x = x.to(real)
    y = torch.as_tensor(labels).to(device)
    weights = [output.loss_weight for output in network.graph.outputs]
    forward = wrap(network)
    sgd = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=device == "cuda"
    )  # fmt: skip

    def train() -> Any:
        for p in network.parameters():
            p.grad = None
        with torch.autocast(device, dtype=real, enabled=narrow):
            outputs = forward(x)
            loss = sum(w * F.cross_entropy(o.float(), y) for w, o in zip(weights, outputs, strict=True))
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        if update:
            sgd.step()
        return loss

    def gradients() -> dict[str, torch.Tensor]:
        parameters = dict(network.named_parameters())
        kept = {name: parameters[slot].grad for name, slot in network.slot.items() if slot in parameters}
        return {name: g.detach().double().cpu() for name, g in kept.items() if g is not None}

    return Step(train, gradients)
