"""Training on a gradient: what a network's output changes by as its image does (Drucker & LeCun, 1992), as gradient
penalties take it (Gulrajani et al., 2017). The step then differentiates the rows of gradients themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tricnn
from tricnn.check.verify import compiled, verify_model
from tricnn.compiler.differentiate import differentiate_open
from tricnn.ir import Graph, GraphBuilder, Loss, Output

BATCH, CHANNELS = 3, 4
IMAGE = (BATCH, 2, 6, 5)
VECTORS = ("bn.weight", "bn.bias", "ln.weight", "ln.bias")


def smooth() -> Graph:
    """conv, batch norm with the batch's statistics, SiLU, layer norm over channels, GELU, conv, softmax."""
    b = GraphBuilder("smooth")
    x = b.input("x", IMAGE[1:])
    one, zero = "constant(1)", "constant(0)"
    vectors = {v: b.parameter(v, (CHANNELS,), one if v.endswith("weight") else zero) for v in VECTORS}
    x = b.conv2d(x, CHANNELS, 3, padding=1, bias=False, name="conv1")
    x = b.add("normalize", x, b.add("batch_stats", x, name="bn.stats"), vectors["bn.weight"], vectors["bn.bias"])
    x = b.add("silu", x, name="silu")
    stats = b.add("pixel_stats", x, name="ln.stats")
    x = b.add("layer_normalize", x, stats, vectors["ln.weight"], vectors["ln.bias"], name="ln")
    x = b.add("hardswish", b.add("gelu", x, name="gelu"), name="hardswish")
    x = b.flatten(b.global_avg_pool(x, name="pool"), name="flat")
    x = b.add("softmax", b.linear(x, 3, bias=False, name="fc"), name="softmax")
    return Graph("smooth", tuple(b.nodes), (Output("y", x),))


def sensitivity() -> Graph:
    """How large that network's gradient by its image is, for each image and channel: the mean of its square."""
    inner = differentiate_open(smooth(), ["x"])
    b = GraphBuilder("sensitivity")
    for node in inner.nodes:
        if node.attrs.get("tangent"):  # each probability is weighed by its logit
            b.add("detach", "fc", name=node.name)
        else:
            b.add(node.op, *node.inputs, name=node.name, **node.attrs)
    ((_, dx),) = inner.gradients
    found = b.flatten(b.global_avg_pool(b.add("square", dx, name="squares"), name="mean"), name="found")
    return Graph("sensitivity", tuple(b.nodes), (Output("found", found),))


def by_autograd(state, x, targets):
    """The loss, and the gradients of the parameters, in float64."""
    p = {name: torch.from_numpy(v.astype(np.float64)).requires_grad_() for name, v in state.items()}
    image = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y = F.conv2d(image, p["conv1.weight"], padding=1)
    y = F.silu(F.batch_norm(y, None, None, p["bn.weight"], p["bn.bias"], True, eps=1e-5))
    y = F.layer_norm(y.permute(0, 2, 3, 1), (CHANNELS,), p["ln.weight"], p["ln.bias"], 1e-5).permute(0, 3, 1, 2)
    y = F.hardswish(F.gelu(y)).mean((2, 3))
    logits = y @ p["fc.weight"].T
    (dx,) = torch.autograd.grad(torch.softmax(logits, 1), image, logits.detach(), create_graph=True)
    loss = F.mse_loss(dx.square().mean((2, 3)), torch.from_numpy(targets.astype(np.float64)))
    names = list(p)
    found = torch.autograd.grad(loss, [p[n] for n in names], allow_unused=True)
    return float(loss), {n: g.numpy() for n, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("executor, dtype, tolerance", [
    ("numpy", "fp64", 1e-9), ("eager", "fp32", 2e-4), ("triton", "fp32", 2e-4),
])  # fmt: skip
def test_a_step_on_a_gradient_has_autograds_gradients_of_gradients(executor, dtype, tolerance):
    rng = np.random.default_rng(0)
    graph = sensitivity()
    model = tricnn.compile(graph, "train", BATCH, dtype, executor, loss=Loss("mean_squared_error"))
    state = {n.name: rng.normal(size=graph.types[n.name].shape).astype(np.float32) for n in graph.parameters}
    model.load_state_dict(state)
    x = rng.normal(size=IMAGE).astype(np.float32)
    targets = rng.uniform(size=(BATCH, IMAGE[1])).astype(np.float32) * 1e-3
    loss, grads = model.loss_and_grads(x, targets)
    expected, theirs = by_autograd(state, x, targets)
    assert loss == pytest.approx(expected, rel=tolerance)
    for name, gradient in grads.items():
        largest = np.abs(theirs[name]).max()
        np.testing.assert_allclose(np.asarray(gradient), theirs[name], rtol=0, atol=tolerance * largest, err_msg=name)


def test_the_kernels_of_a_step_on_a_gradient_are_within_their_tolerances():
    model = compiled(sensitivity(), mode="train", batch=2, dtype="bf16", loss=Loss("mean_squared_error"))
    checks = verify_model(model, 2)
    assert checks and [c for c in checks if not c.ok] == []
