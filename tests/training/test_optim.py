"""What a user would lose: recipes written for torch.optim.SGD that train the same way here."""

import numpy as np
import pytest
import torch

from tricnn.system.errors import TricnnError
from tricnn.training.optim import LAMB, LARS, SGD, AdamW, Average
from tricnn.training.schedules import Schedule

SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "fc.weight": (5, 7)}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [(0.0, False, 0.0), (0.0, False, 0.01), (0.9, False, 0.0), (0.9, False, 5e-4), (0.9, True, 0.0), (0.8, True, 0.1)],
)
@pytest.mark.parametrize("decay_vectors", [True, False])
def test_twenty_steps_equal_torch_optim(kind, momentum, nesterov, decay, decay_vectors):
    rng = np.random.default_rng(0)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    plain = [p for name, p in theirs.items() if p.ndim > 1 or decay_vectors]
    rest = [p for name, p in theirs.items() if not (p.ndim > 1 or decay_vectors)]
    groups = [{"params": plain, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups[: 1 + bool(rest)], lr=1.0, momentum=momentum, nesterov=nesterov)
    ours = {name: torch.tensor(value) if kind == "torch" else value.copy() for name, value in start.items()}
    live = dict(ours)
    sgd = SGD(momentum, nesterov, decay, frozenset() if decay_vectors else frozenset({"conv.bias"}))
    for step in range(20):
        lr = 0.1 / (1 + step)
        grads = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
        for group in reference.param_groups:
            group["lr"] = lr
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        reference.step()
        given = {name: torch.tensor(g) if kind == "torch" else g.copy() for name, g in grads.items()}
        sgd.step(ours, given, lr)
        assert all(np.array_equal(np.asarray(given[name]), grads[name]) for name in grads), "gradients were changed"
    for name in SHAPES:
        assert ours[name] is live[name], "parameters must be updated in place"
        # Both are float64; they may differ by the order of a multiplication and an addition, 20 times.
        np.testing.assert_allclose(np.asarray(ours[name]), theirs[name].detach().numpy(), rtol=1e-13, atol=1e-14)


def test_float32_parameters_stay_float32_and_the_velocity_is_not_the_gradients_memory():
    p, g = {"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)}
    sgd = SGD(momentum=0.5)
    sgd.step(p, g, 0.1)
    g["w"][:] = 100
    assert p["w"].dtype == sgd.velocity["w"].dtype == np.float32
    assert sgd.velocity["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"momentum": 0.0, "nesterov": True}, {"weight_decay": -1.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(TricnnError):
        SGD(**settings)


def torch_rates(steps, warmup, make):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    after = make(optimiser)
    if warmup:
        first = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1 / (warmup + 1), total_iters=warmup)
        after = torch.optim.lr_scheduler.SequentialLR(optimiser, [first, after], milestones=[warmup])
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        after.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
def test_rates_equal_torchs_schedulers(kind, warmup):
    total, schedulers = 50, torch.optim.lr_scheduler
    make = {
        "constant": lambda o: schedulers.LambdaLR(o, lambda step: 1.0),
        "step": lambda o: schedulers.MultiStepLR(o, [20 - warmup, 31 - warmup], gamma=0.2),
        "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=total - warmup),
    }[kind]
    ours = Schedule(kind, 0.3, warmup, total, milestones=(20, 31), gamma=0.2)
    np.testing.assert_allclose([ours(t) for t in range(total)], torch_rates(total, warmup, make), rtol=1e-9)
    assert ours(warmup) == 0.3


def test_cosine_ends_at_zero_and_stays_there():
    schedule = Schedule("cosine", 0.1, 5, 25)
    assert schedule(25) == schedule(1000) == 0


@pytest.mark.parametrize(
    "settings",
    [{"kind": "linear"}, {"lr": 0.0}, {"lr": float("nan")}, {"warmup": -1}, {"kind": "cosine", "warmup": 5, "total": 5},
     {"kind": "cosine"}, {"milestones": (5, 3)}],
)  # fmt: skip
def test_schedules_that_make_no_sense_are_refused(settings):
    with pytest.raises(TricnnError):
        Schedule(**settings)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_adamw_equals_torch_optim(kind):
    theirs, ours = twins(kind)
    groups = [
        {"params": [p for name, p in theirs.items() if name != "conv.bias"], "weight_decay": 0.1},
        {"params": [theirs["conv.bias"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.95), eps=1e-6)
    mine = AdamW((0.8, 0.95), 1e-6, 0.1, frozenset({"conv.bias"}))
    follow(reference, theirs, mine, ours)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_clipping_equals_torchs(clip):
    theirs, ours = twins("numpy")
    reference = torch.optim.SGD(theirs.values(), lr=1.0, momentum=0.9)
    before = reference.step
    reference.step = lambda: (torch.nn.utils.clip_grad_norm_(theirs.values(), clip), before())
    follow(reference, theirs, SGD(0.9, clip=clip), ours)


def twins(kind):
    rng = np.random.default_rng(1)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    return theirs, {name: torch.tensor(value) if kind == "torch" else value.copy() for name, value in start.items()}


def follow(reference, theirs, mine, ours):
    """Five steps of both, by the same gradients at falling rates; float64 on either side."""
    rng = np.random.default_rng(2)
    for step in range(5):
        for group in reference.param_groups:
            group["lr"] = 0.1 / (1 + step)
        grads = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name])
        reference.step()
        given = {n: torch.tensor(g) if isinstance(ours[n], torch.Tensor) else g for n, g in grads.items()}
        mine.step(ours, given, 0.1 / (1 + step))
    for name in SHAPES:
        np.testing.assert_allclose(np.asarray(ours[name]), theirs[name].detach().numpy(), rtol=1e-12, atol=1e-13)


def by_paper(rule, steps, start, gradients, lr, decay):
    """One parameter after some steps, straight from the papers' algorithms."""
    w, m, v = start.copy(), 0 * start, 0 * start
    length = np.linalg.norm
    for t in range(1, steps + 1):
        g = gradients[t - 1]
        if rule == "lars":  # You et al. 2017, algorithm 1: trust 0.01, momentum 0.9
            ratio = (
                0.01 * length(w.ravel()) / (length(g.ravel()) + decay * length(w.ravel())) if decay is not None else 1.0
            )
            v = 0.9 * v + lr * ratio * (g + (decay or 0) * w)
            w = w - v
        else:  # You et al. 2020, algorithm 2: β 0.9 and 0.99, ε 1e-6
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
            if decay is not None:
                r = r + decay * w
            w = w - lr * (length(w.ravel()) / length(r.ravel()) if decay is not None else 1.0) * r
    return w


@pytest.mark.parametrize("rule", ["lars", "lamb"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_lars_and_lamb_are_their_papers(rule, kind):
    rng = np.random.default_rng(3)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    grads = [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(4)]
    exempt = frozenset({"conv.bias"})
    mine = LARS(0.9, 0.05, exempt, 0.01) if rule == "lars" else LAMB((0.9, 0.99), 1e-6, 0.05, exempt)
    wrap = torch.tensor if kind == "torch" else np.array
    ours = {name: wrap(value) for name, value in start.items()}
    for given in grads:
        mine.step(ours, {name: wrap(g) for name, g in given.items()}, 0.1)
    for name in SHAPES:
        expected = by_paper(rule, 4, start[name], [g[name] for g in grads], 0.1, None if name in exempt else 0.05)
        np.testing.assert_allclose(np.asarray(ours[name]), expected, rtol=1e-12, atol=1e-13)


def test_a_weight_or_gradient_of_zero_is_not_rescaled():
    for mine in (LARS(0.0, 0.0, trust=0.001), LAMB(weight_decay=0.0)):
        p = {"w": np.zeros((2, 2)), "still": np.ones((2, 2))}
        mine.step(p, {"w": np.ones((2, 2)), "still": np.zeros((2, 2))}, 0.5)
        np.testing.assert_allclose(p["w"], -0.5, rtol=1e-5)
        assert np.array_equal(p["still"], np.ones((2, 2)))


def test_the_running_average_is_torchs():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    theirs = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True
    )
    mine, state = Average(0.8), {n: x for n, x in net.state_dict().items() if x.is_floating_point()}
    for step in range(4):
        theirs.update_parameters(net)  # its first update copies
        mine.update({name: x.numpy() for name, x in state.items()})
        for x in state.values():
            x += 0.1 * (step + 1)
    for name, x in theirs.module.state_dict().items():
        if x.is_floating_point():
            np.testing.assert_allclose(mine.values[name], x.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(betas=(1.0, 0.9)),
        lambda: LAMB(weight_decay=-1),
        lambda: LARS(trust=0),
        lambda: SGD(clip=0.0),
        lambda: Average(1.0),
    ],
)
def test_other_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(TricnnError):
        make()
