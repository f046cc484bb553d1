"""An imported module against the module itself, run and differentiated by PyTorch, in float64."""

import copy
import warnings
from typing import Any

import numpy as np
import torch

import tricnn
from tricnn.ir import Graph

BATCH = 3


def imported(module: torch.nn.Module, shape: tuple[int, ...], **options: Any) -> Graph:
    return tricnn.from_torch(module, (2, *shape), cache=False, **options)[0]


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module in float64, parameters and running statistics away from the values that they begin with."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if x.is_floating_point():
                noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
                x.copy_(noise + 0.5 if "running_var" in name or x.dim() == 1 else (noise - 0.5))
    return module


def images(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, *shape))


def by_name(result: Any) -> list[torch.Tensor]:
    """Outputs in order."""
    return [x for x in torch.utils._pytree.tree_leaves(result) if x is not None]


def check_infer(module: torch.nn.Module, graph: Graph, shape: tuple[int, ...], executor: str = "numpy") -> None:
    """Every output of the module in eval(), and of the graph compiled for inference, is the same."""
    exact = executor != "triton"
    m = tricnn.compile(graph, "infer", batch=BATCH, dtype="fp64" if exact else "fp32", executor=executor)
    load(m, module)
    x = images(shape)
    with torch.no_grad():
        expected = by_name(copy.deepcopy(module).eval()(torch.from_numpy(x)))
    found = m(x)
    found = list(found.values()) if isinstance(found, dict) else [found]
    assert len(found) == len(expected)
    for y, right in zip(found, expected):
        np.testing.assert_allclose(y, right, **close(right, exact))


def check_train(
    module: torch.nn.Module, graph: Graph, shape: tuple[int, ...], executor: str = "numpy", weights: Any = None
) -> None:
    """Loss, every gradient by its name, and the statistics after a step are PyTorch's. ``weights`` of the outputs'
    losses are 1 unless said; the module stays as it is."""
    exact = executor != "triton"
    m = tricnn.compile(graph, "train", batch=BATCH, dtype="fp64" if exact else "fp32", executor=executor)
    load(m, module)
    x, labels = images(shape), np.random.default_rng(2).integers(0, graph.classes or 2, BATCH)
    twin = copy.deepcopy(module)
    outputs = by_name(twin(torch.from_numpy(x)))
    losses = [torch.nn.functional.cross_entropy(y, torch.from_numpy(labels)) for y in outputs]
    right = sum(w * loss for w, loss in zip(weights or [1.0] * len(losses), losses, strict=True))
    right.backward()
    loss, grads = m.loss_and_grads(x, labels)
    np.testing.assert_allclose(loss, right.item(), rtol=1e-10 if exact else 1e-5)
    expected = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    assert set(grads) == set(expected)
    largest = torch.cat([g.flatten() for g in expected.values()])  # that of a bias before batch norm is 0
    for name, g in expected.items():
        np.testing.assert_allclose(grads[name], g, err_msg=name, **close(largest, exact))
    after = m.state_dict()
    for name, value in twin.state_dict().items():
        if "running_" in name and name in after:
            np.testing.assert_allclose(after[name], value, err_msg=name, **close(value, exact))


def load(m: tricnn.Model, module: torch.nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.load_state_dict(module.state_dict())


def close(right: torch.Tensor, exact: bool) -> dict[str, float]:
    """float64 to rounding; Triton's fp32 by what sums of a few hundred products round."""
    scale = float(right.detach().abs().max()) or 1.0
    return {"rtol": 1e-8, "atol": 1e-9 * scale} if exact else {"rtol": 1e-3, "atol": 3e-5 * scale}
