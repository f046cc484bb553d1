"""The part of the emitted file that speaks PyTorch.

It has ``load`` of a state_dict, ``inputs``, ``results``, ``gradients``, and what ``python kernels.py`` runs.

Everything else in the file is flat memory in the order in which kernels read it. Where a value lies in that memory, and
in which order, is known here and written into tables and views.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from ..ir.graph import Node
from ..ir.scalar import torch_text
from ..ir.types import TensorType
from ..lower.call import wrapped
from ..lower.program import Program
from .page import WIDTH, entry
from .tensors import filled

#: the tables by which functions go, each under what it has
STATE = "Weights and statistics, by their names and in their shapes in PyTorch."
LEFT_OUT = "Weights and statistics that the network has, and this file does not need."
PLACES = "Tensors that are a part of another one: its name, the first element, how many elements."
COLUMNS = "Dense layers that read an image: PyTorch has a column for each c, h, w of it, kernels for each h, w, c."
GRADIENTS = "The name of the gradient of each weight."

ORDER = '''\
def stored(x, columns=None):
    """A tensor of PyTorch's shape as kernels read it, flat: OIHW as OHWI, NCHW as NHWC."""
    x = x.reshape(len(x), *columns) if columns else x
    return x.permute(0, 2, 3, 1).reshape(-1) if x.dim() == 4 else x.reshape(-1)
'''

RESTORED = '''\
def restored(x, shape, columns=None):
    """The inverse of stored: what is flat, in PyTorch's shape."""
    if not columns and len(shape) != 4:
        return x.view(shape)
    o, c, h, w = (shape[0], *columns) if columns else shape
    return x.view(o, h, w, c).permute(0, 3, 1, 2).reshape(shape)
'''

FLAT = '''\
def flat(t, name):
    """A weight, statistic or gradient, in the order in which kernels read it: a view."""
    tensor, first, count = PLACES.get(name, (name, 0, None))
    return t[tensor][first : first + count] if count else t[tensor]
'''

LOAD = '''\
def load(state_dict, device="cuda"):
    """parameters(device) with the weights of a state_dict, tensors or arrays by PyTorch's names and in its shapes.
    Raises ValueError that lists all that is missing, unexpected or of another shape."""
    counters = "num_batches_tracked"  # which PyTorch keeps beside the weights of batch norm
    state = {k: torch.as_tensor(x) for k, x in state_dict.items() if not k.endswith(counters)}
    wrong = [f"missing {k}" for k in STATE if k not in state]
    wrong += [f"unexpected {k}" for k in state if k not in STATE and k not in LEFT_OUT]
    for k, shape in STATE.items():
        if k in state and tuple(state[k].shape) != shape:
            wrong.append(f"{k} has shape {tuple(state[k].shape)}, needs {shape}")
    if wrong:
        raise ValueError("weights do not fit: " + "; ".join(wrong))
    w = {k: state[k].detach().cpu().double() for k in STATE}
{prepared}
    t = parameters(device)
    for k, x in w.items():
        if k in t or k in PLACES:
            flat(t, k).copy_(stored(x.float(), COLUMNS.get(k)))
{rounding}
    return t
'''

INPUTS = '''\
def inputs(t, N):
    """Where a batch goes, by name, in PyTorch's shapes: views of t, to be filled by copy_."""
    return {
{inputs}
    }
'''

RESULTS = '''\
def results(t, N):
    """What step has computed, by name, in PyTorch's shapes: views of t, where the next step writes again."""
    return {
{results}
    }
'''

TRAINING = '''\
def gradients(t):
    """What step has computed, by the names of weights, in PyTorch's shapes."""
    return {k: restored(flat(t, g), STATE[k], COLUMNS.get(k)) for k, g in GRADIENTS.items()}


def state_dict(t):
    """Weights and statistics as they are now, by PyTorch's names and in its shapes: a copy."""
    return {k: restored(flat(t, k).clone(), shape, COLUMNS.get(k)) for k, shape in STATE.items()}


def sgd(t, rate):
    """Gradient descent: weight -= rate * gradient."""
    for k, g in GRADIENTS.items():
        flat(t, k).sub_(flat(t, g), alpha=rate)
{rounding}
'''

MAIN = '''\
def main(weights=None, N=None):
    """Run a batch of noise, and print what comes of it: python kernels.py [WEIGHTS.pth [N]]."""
    interpreted = triton.knobs.runtime.interpret
    if not interpreted and not torch.cuda.is_available():
        raise SystemExit(f"{sys.argv[0]} needs a GPU, or, to be interpreted, TRITON_INTERPRET=1 set")
    device, N = ("cpu", int(N or 2)) if interpreted else ("cuda", int(N or {batch}))
    noise = {k: torch.rand(shape) / torch.Size(shape[1:]).numel() for k, shape in STATE.items()}
    t = allocate(N, device, load(torch.load(weights, weights_only=True) if weights else noise, device))
    for view in inputs(t, N).values():
{noise}
{run}


if __name__ == "__main__":
    main(*sys.argv[1:])
'''

NOISE = """\
        view.copy_(torch.rand(view.shape) if view.dim() else torch.tensor(1.0))  # class numbers 0, a loss's scale 1
"""

BYTES = """\
        if view.dtype == torch.uint8:
            view.copy_(torch.randint(256, view.shape))
        else:
            view.copy_(torch.rand(view.shape) if view.dim() else torch.tensor(1.0))  # class numbers 0, a scale 1
"""

RUN = """\
    step(t, N)
    for name, y in results(t, N).items():
        print(f"{name} {list(y.shape)}: mean {y.float().mean():.6g}, deviation {y.float().std():.6g}")
"""

TRAIN = """\
    for number in range(3):
        step(t, N, seed=0, step=number)
        print(f"step {number}: loss {float(results(t, N)['loss']):.6g}")
        sgd(t, 0.01)
"""


def interface(program: Program) -> list[str]:
    """The texts of the part of the emitted file that speaks PyTorch, in order."""
    plan, graph = program.plan, program.plan.graph
    training = plan.mode == "train"
    weights = [*graph.parameters, *graph.buffers]
    gradients = dict(graph.gradients) if training else {}
    named = [n.name for n in (*weights, *plan.prepared)] + list(gradients.values())
    places = {name: plan.place(name) for name in named}
    within = {
        name: (place.buffer, place.offset, prod(plan.type(name).per_image))
        for name, place in places.items()
        if place.buffer != name and place.buffer in program.buffers
    }
    prepared = [line for node in plan.prepared for line in _prepared(node)]
    rounding = ["    round_weights(t)"] * bool(program.rounded)
    noise = BYTES if any(plan.type(n.name).dtype == "uint8" for n in graph.inputs) else NOISE
    called = [node.row.torch for node in plan.prepared if node.row.torch is not None]
    parts = [
        _table("STATE", STATE, _items({n.name: plan.type(n.name).per_image for n in weights})),
        _table("LEFT_OUT", LEFT_OUT, [f"    {json.dumps(name)}," for name in plan.left_out]),
        _table("PLACES", PLACES, _items(within)),
        _table("COLUMNS", COLUMNS, _items({n: program.order[n] for n in named if n in program.order})),
        ORDER,
        *([RESTORED] if training else []),
        FLAT,
        *(_text(function) for function in dict.fromkeys(called)),
        filled(LOAD, prepared=prepared, rounding=rounding),
        filled(INPUTS, inputs=_views(program, {n.name: n.name for n in graph.inputs})),
        filled(RESULTS, results=_views(program, {o.name: o.value for o in graph.outputs})),
        *([_table("GRADIENTS", GRADIENTS, _items(gradients))] if training else []),
        *([filled(TRAINING, rounding=rounding)] if training else []),
        filled(MAIN, noise=noise.splitlines(), run=(TRAIN if training else RUN).splitlines()).replace(
            "{batch}", str(program.batch)
        ),
    ]
    return [part.strip("\n") for part in parts]


def _table(name: str, about: str, lines: list[str]) -> str:
    """A dictionary, or a set, under a comment."""
    return "\n".join([f"# {about}", *([f"{name} = {{", *lines, "}"] if lines else [f"{name} = {{}}"])])


def _items(found: Mapping[str, object]) -> list[str]:
    """The items of a dictionary."""
    return [line for name, value in found.items() for line in entry(4, json.dumps(name), _literal(value))]


def _literal(value: object) -> str:
    """A text, a number, or a tuple of them, as Python writes them in this file."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _text(function: Callable[..., Any]) -> str:
    """The text of a function of tensors, which finds torch at the head of the file."""
    return inspect.getsource(function).replace("    import torch\n\n", "").strip()


def _prepared(node: Node) -> list[str]:
    """A Python function, as text, that computes a prepared weight of the parameters in the dictionary w."""
    operands = [f"w[{json.dumps(name)}]" for name in node.inputs]
    target = f"    w[{json.dumps(node.name)}] = "
    if node.row.torch is None:
        assert node.row.scalar is not None, f"no text is known of {node.op} of weights"
        names = dict(zip(node.row.operand_names(len(operands)), operands, strict=True))
        text = torch_text(node.row.scalar, node.attrs, names)
        return [target + text] if len(target + text) <= WIDTH else [f"{target}(", f"        {text}", "    )"]
    arguments = [*operands, *(f"{key}={_literal(value)}" for key, value in node.attrs.items())]
    line = f"{target}{node.row.torch.__name__}({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return [line]
    return [f"{target}{node.row.torch.__name__}(", *wrapped(arguments, 8, WIDTH), "    )"]


def _views(program: Program, values: dict[str, str]) -> list[str]:
    """For each name a view of the value's memory in PyTorch's shape, as the items of a dictionary."""
    return [line for name, value in values.items() for line in entry(8, json.dumps(name), _view(program, value))]


def _view(program: Program, value: str) -> str:
    """A value's memory in PyTorch's shape: an expression over t and N."""
    type_, place = program.plan.type(value), program.plan.place(value)
    tensor, shape = f"t[{json.dumps(place.buffer)}]", type_.per_image
    if not type_.batched:
        return f"{tensor}.view({_literal(shape)})"
    if (packing := program.buffers[place.buffer].packing) is not None:
        c, h, w = shape
        rows = f"{tensor}.view(N, {packing.rows}, {packing.pitch})[:, :{h}, {packing.left}:{packing.left + w * c}]"
        return f"{rows}.unflatten(2, ({w}, {c})).permute(0, 3, 1, 2)"
    if value in program.order:
        return f"restored({tensor}, (N, {shape[0]}), {_literal(program.order[value])})"
    return _part(tensor, type_, place.offset, place.pitch)


def _part(tensor: str, type_: TensorType, first: int, pitch: int) -> str:
    """Channels from the first on of a tensor that has so many."""
    shape = type_.per_image
    if not shape:
        return tensor
    count, spatial = shape[0], "".join(f"{size}, " for size in shape[1:])
    part = f"[..., {first}:{first + count}]" if count != pitch else ""
    return f"{tensor}.view(N, {spatial}{pitch}){part}{'.permute(0, 3, 1, 2)' * (len(shape) == 3)}"
