"""The page of the operations, made of the table that defines them.

    python docs/operations.py            writes docs/operations.md
    python docs/operations.py --check    exit status 1 if it is stale

Equations, operands and attributes are the table's; what PyTorch and ONNX call an operation is written here.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tricnn.ir import OPS
from tricnn.ir.table import REQUIRED, Op, Source

PAGE = Path(__file__).parent / "operations.md"

#: what a network is declared of -> its name in PyTorch, and in ONNX; "" where there is none
NAMES = {
    "input": ("", ""),
    "from_bytes": ("", ""),
    "parameter": ("nn.Parameter", ""),
    "buffer": ("nn.Module.register_buffer", ""),
    "conv2d": ("nn.functional.conv2d", "Conv"),
    "conv_transpose2d": ("nn.functional.conv_transpose2d", "ConvTranspose"),
    "linear": ("nn.functional.linear", "Gemm"),
    "batch_norm": ("nn.functional.batch_norm", "BatchNormalization"),
    "pixel_stats": ("", ""),
    "layer_normalize": ("nn.functional.layer_norm", "LayerNormalization"),
    "local_response_norm": ("nn.functional.local_response_norm", "LRN"),
    "dropout": ("nn.functional.dropout", "Dropout"),
    "dropout2d": ("nn.functional.dropout2d", ""),
    "stochastic_depth": ("", ""),
    "max_pool2d": ("nn.functional.max_pool2d", "MaxPool"),
    "avg_pool2d": ("nn.functional.avg_pool2d", "AveragePool"),
    "global_avg_pool": ("nn.functional.adaptive_avg_pool2d", "GlobalAveragePool"),
    "adaptive_avg_pool2d": ("nn.functional.adaptive_avg_pool2d", ""),
    "sum_channels": ("sum", "ReduceSum"),
    "mean_channels": ("mean", "ReduceMean"),
    "max_channels": ("amax", "ReduceMax"),
    "upsample_nearest2d": ("nn.functional.interpolate", "Resize"),
    "upsample_bilinear2d": ("nn.functional.interpolate", "Resize"),
    "zero_pad2d": ("nn.functional.pad", "Pad"),
    "channel_shuffle": ("nn.functional.channel_shuffle", ""),
    "pixel_shuffle": ("nn.functional.pixel_shuffle", "DepthToSpace"),
    "pixel_unshuffle": ("nn.functional.pixel_unshuffle", "SpaceToDepth"),
    "flatten": ("flatten", "Flatten"),
    "unflatten": ("unflatten", "Reshape"),
    "concat": ("cat", "Concat"),
    "slice_channels": ("split", "Slice"),
    "pad_channels": ("nn.functional.pad", "Pad"),
    "view_weight": ("", ""),
    "standardize_filters": ("", ""),
    "scale_filters": ("", ""),
    "repeat_number": ("", ""),
    "softmax": ("softmax", "Softmax"),
    "cross_entropy": ("nn.functional.cross_entropy", ""),
    "soft_cross_entropy": ("nn.functional.cross_entropy", ""),
    "binary_cross_entropy": ("nn.functional.binary_cross_entropy_with_logits", ""),
    "squared_error": ("nn.functional.mse_loss", ""),
    "add": ("add", "Add"),
    "sub": ("sub", "Sub"),
    "mul": ("mul", "Mul"),
    "div": ("div", "Div"),
    "maximum": ("maximum", "Max"),
    "minimum": ("minimum", "Min"),
    "detach": ("Tensor.detach", ""),
    "scale": ("mul", "Mul"),
    "shift": ("add", "Add"),
    "neg": ("neg", "Neg"),
    "abs": ("abs", "Abs"),
    "square": ("square", "Pow"),
    "sqrt": ("sqrt", "Sqrt"),
    "reciprocal": ("reciprocal", "Reciprocal"),
    "exp": ("exp", "Exp"),
    "log": ("log", "Log"),
    "clamp": ("clamp", "Clip"),
    "relu": ("relu", "Relu"),
    "relu6": ("nn.functional.relu6", "Clip"),
    "sigmoid": ("sigmoid", "Sigmoid"),
    "tanh": ("tanh", "Tanh"),
    "leaky_relu": ("nn.functional.leaky_relu", "LeakyRelu"),
    "prelu": ("nn.functional.prelu", "PRelu"),
    "elu": ("nn.functional.elu", "Elu"),
    "silu": ("nn.functional.silu", "Swish"),
    "hardsigmoid": ("nn.functional.hardsigmoid", "HardSigmoid"),
    "hardswish": ("nn.functional.hardswish", "HardSwish"),
    "gelu": ("nn.functional.gelu", "Gelu"),
    "gelu_tanh": ("nn.functional.gelu", "Gelu"),
    "mish": ("nn.functional.mish", "Mish"),
    "softplus": ("nn.functional.softplus", "Softplus"),
}

HEAD = """\
# The operations

Made by `python docs/operations.py` of the table `tricnn.ir.OPS`; `python docs/operations.py --check` says whether it is
stale. `add("relu", x)` of a `GraphBuilder` and the text form take these names, operands and attributes; a value has the
shape `[N, C, H, W]` or `[N, F]`, a parameter none with N. The functions of PyTorch are under `torch`. How one is added:
[adding-an-operation.md](adding-an-operation.md).

## What networks are declared of

"""

MADE = """
## What the compiler makes of them

Parts of a training step, gradients, and weights that are prepared once for inference.

"""


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def attributes(op: Op) -> str:
    """Each attribute with what it accepts and its default."""
    found = []
    for name, attr in op.attrs.items():
        default = "" if attr.default is REQUIRED else f", `{attr.default}` if not given"
        found.append(f"`{name}`: {attr.accepts}{default}")
    return "; ".join(found)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def equation(op: Op) -> str:
    return op.doc or (f"a value that is given: {op.source.value}" if isinstance(op.source, Source) else "")


def table(names: Sequence[str], foreign: bool) -> str:
    header = ["operation", "operands", "equation", "attributes"] + ["PyTorch", "ONNX"] * foreign
    text = row(header) + row(["---"] * len(header))
    for name in names:
        op = OPS[name]
        cells = [code(name), code(" ".join(op.inputs)), equation(op), attributes(op)]
        text += row(cells + [code(theirs) for theirs in (NAMES[name] if foreign else ())])
    return text


TEXT = """
## The text form

What `print(graph)` writes and a file given as MODEL holds; `tricnn.ir.from_text` reads it. A line is a statement;
blanks and what follows `#` mean nothing. Layers may come in any order. Attributes that are not written have their
defaults.

```text
graph     = "graph" NAME, then lines of: layer, output, update, gradient
layer     = NAME "=" OPERATION "(" [ NAME { "," NAME } ] { "," ATTRIBUTE "=" value } ")"
output    = "output" NAME "=" NAME [ "loss_weight=" number ] [ "training_only=" ("True" | "False") ]
update    = "update" BUFFER "=" NAME          what a buffer becomes after a step
gradient  = "gradient" PARAMETER "=" NAME     of a differentiated graph
value     = number | '"' text '"' | "True" | "False" | "N" | "[" value { "," value } "]" | "(" ... ")"
NAME      = letters, digits, "_" and "-", in parts with "." between; at most 128 characters
```

For example:

```tricnn
graph tiny
x = input(shape=[N, 1, 28, 28])
conv1.weight = parameter(shape=[6, 1, 5, 5], init="he_normal(fan_out)")
conv1 = conv2d(x, conv1.weight, padding=2)  # no bias
relu1 = relu(conv1)
fc.flatten = flatten(relu1)
fc.weight = parameter(shape=[10, 4704], init="he_normal(fan_in)")
fc.bias = parameter(shape=[10], init="constant(0)")
fc = linear(fc.flatten, fc.weight, fc.bias)
output logits = fc
```
"""


def page() -> str:
    made = sorted(name for name in OPS if name not in NAMES)
    return HEAD + table(list(NAMES), True) + MADE + table(made, False) + TEXT


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/operations.md, the page of the operations.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file is stale")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print("docs/operations.md is stale; python docs/operations.py makes it anew", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
