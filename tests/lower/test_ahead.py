"""What programs of 1x1 products load ahead of the tile that they compute."""

import pytest

from tricnn.compiler.pipeline import planned
from tricnn.ir import GraphBuilder
from tricnn.lower.lower import lower
from tricnn.machine.tiles import Form


def block(channels, filters):
    """A residual block, whose first gradient by the input has a batch norm's gradient as its operand, and beside its
    result the gradient of the other branch and the image that its own batch norm's sums want."""
    b = GraphBuilder("block")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 28, 28)), channels, 1, bias=False)))
    y = b.relu(b.batch_norm(b.conv2d(x, filters, 1, bias=False, name="reduce")))
    y = b.relu(b.add_(b.batch_norm(b.conv2d(y, channels, 1, bias=False)), x))
    return b.build(b.linear(b.global_avg_pool(y), 5))


@pytest.mark.parametrize("channels, filters, ahead", [(64, 64, True), (64, 128, False), (128, 64, False)])
def test_a_tile_of_one_step_and_few_columns_has_what_its_epilogue_loads_ahead(channels, filters, ahead):
    """Where tiles are one step of the depth each, and two programs of narrow ones would wait for what they load."""
    plan = planned(block(channels, filters), "train", "all")
    (name,) = (k.name for k in plan.kernels if k.name.endswith("reduce_grad_input"))
    for pipelined in (True, False):  # as some versions of Triton must not
        program = lower(plan, "bf16", 256, "sm_90", {name: Form(pipelined=pipelined)})
        gradient = next(f for f in program.functions if f.name == name)
        assert "matmul_boxes(" in gradient.text and ("AHEAD=3" in gradient.text) == (ahead and pipelined)
