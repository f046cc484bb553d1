"""Functions with one body are written once in an emitted file, and the step says which layers it computes."""

import re
from collections import Counter

from tricnn.emit.emit import emit
from tricnn.emit.shared_helpers import shared
from tricnn.graphs import googlenet_bn, lenet, resnet18
from tricnn.lower.call import Line
from tricnn.lower.from_graph import lowered
from tricnn.lower.program import Function


def function(name, helper, call):
    return Function(name, (tuple(map(Line, helper.splitlines())),), call, (("x", "*fp32"),), 4, 2)


def test_a_body_that_is_there_is_called_by_its_first_name():
    load = "@triton.jit\ndef {0}_load(x):\n    return tl.load(x) + {1}\n"
    made = [function(n, load.format(n, k), f"copy({n}_load, x, {n}_load_y)") for n, k in (("a", 1), ("b", 1), ("c", 2))]
    one, two, three = shared(made)
    assert (one, three) == (made[0], made[2])
    assert two.helpers == () and two.call == "copy(a_load, x, b_load_y)", "only whole names are changed"


def test_no_two_functions_of_a_file_have_one_body():
    text = emit(lowered(resnet18(), "train", 64, "bf16", "sm_90", fuse=True))
    bodies = re.findall(r"^@triton\.jit\ndef \w+(\(.*?)(?=\n\n\n)", text, re.MULTILINE | re.DOTALL)
    names = re.findall(r"^def (\w+)\(", text, re.MULTILINE)
    assert len(bodies) > 50 and max(Counter(names).values()) == max(Counter(bodies).values()) == 1
    called = set(re.findall(r"\bk\d+_\w*_(?:load|store)_\w+", text))
    assert called <= set(names)


def test_lines_of_kernels_fit_a_page():
    """Also those that many siblings' running statistics make long."""
    text = emit(lowered(googlenet_bn(), "train", 64, "bf16", "sm_90", fuse=True))
    compile(text, "emitted", "exec")
    kernels = text[text.index("# kernels\n") : text.index("# the step\n")].splitlines()
    assert any(") = args" in line and "(" not in line for line in kernels)
    assert [line for line in kernels if len(line) > 120] == []


def test_a_step_says_its_layers_and_where_backward_begins():
    text = emit(lowered(lenet(), "train", 64, "bf16", "sm_90", fuse=True))
    step = text[text.index("def step(") :]
    marks = re.findall(r"^    # (.*)$|^    (k\d+\w*)\[", step, re.MULTILINE)
    words = [comment.rstrip(" -") or launch for comment, launch in marks]
    assert words.index("forward") < words.index("conv1, pool1, act1, pool1.max_pool2d_index")
    assert words.index("k04_fc3") < words.index("backward, with the loss") < words.index("k05_loss")
    assert max(map(len, step.splitlines())) <= 120
    assert "backward" not in emit(lowered(lenet(), "infer", 64, "bf16", "sm_90", fuse=True)).split("def step(")[1]
