"""What a user with a GPU would lose: optimisers in a launch or two that are torch.optim's, and their papers', step by
step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tricnn
from tests.training.stopping import Failing, StopAfter
from tricnn import Trainer
from tricnn.kernels import optimisers
from tricnn.run.rounded_weights import RoundedWeights
from tricnn.training import LossScaling, ParameterGroup, TrainOptions, few_launches, updates
from tricnn.training.few_launches import FewLaunches
from tricnn.training.loop import AVERAGED
from tricnn.training.optim import LAMB, LARS, SGD, AdamW, Average
from tricnn.training.updates import ByParameter

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there, under Triton's interpreter
#: parameters of several pieces, of one, and of a part of one; and what is averaged without being trained
SIZES = {"conv.weight": 5000, "conv.bias": 4, "fc.weight": 1024}
EXEMPT = frozenset({"conv.bias"})
GROUPS = {"rates": {"fc.weight": 10.0}, "decays": {"fc.weight": 0.25}}
RULES = {
    "sgd": SGD(0.0, no_decay=EXEMPT),
    "nesterov": SGD(0.9, True, 0.01, EXEMPT, **GROUPS),
    "adamw": AdamW((0.8, 0.95), 1e-6, 0.1, EXEMPT, **GROUPS),
    "lars": LARS(0.9, 0.05, EXEMPT, 0.01, **GROUPS),
    "lamb": LAMB((0.9, 0.99), 1e-6, 0.05, EXEMPT, **GROUPS),
}
#: launches of an update, of one that is clipped, of one that looks whether gradients are finite
LAUNCHES = {"sgd": (1, 2, 2), "nesterov": (1, 2, 2), "adamw": (1, 2, 2), "lars": (2, 2, 2), "lamb": (2, 3, 3)}
SCALE = 1024.0


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Sums over more than one piece of a parameter."""
    monkeypatch.setattr(few_launches, "LENGTH", 2048)


def numbers(seed, sizes=None):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(size).astype(np.float32) for name, size in (sizes or SIZES).items()}


def fresh(rule, **changes):
    """The rule with nothing remembered."""
    return replace(rule, slots={}, steps=0, **changes)


class Ours:
    def __init__(self, rule, decay=0.75):
        self.live = {name: torch.tensor(x, device=DEVICE) for name, x in numbers(0).items()}
        self.running = torch.full((7,), 2.0, device=DEVICE)
        self.average = Average(decay)
        self.average.update(self.state())
        copied = ("conv.weight", "fc.weight")
        copies = {n: torch.full((SIZES[n],), float("nan"), dtype=torch.bfloat16, device=DEVICE) for n in copied}
        self.rounded = RoundedWeights({name: self.live[name] for name in copies}, copies)
        self.update = FewLaunches(fresh(rule), self.average, self.state, self.rounded)

    def state(self):
        return {**self.live, "bn.running_mean": self.running}

    def step(self, gradients, lr, **options):
        return self.update(self.live, {n: torch.tensor(g, device=DEVICE) for n, g in gradients.items()}, lr, **options)


def of_torch(rule, parameters):
    """torch.optim's for a rule, with a group for each parameter."""
    groups = [{"params": [p], "weight_decay": rule.decay_of(name)} for name, p in parameters.items()]
    if isinstance(rule, SGD):
        return torch.optim.SGD(groups, lr=1.0, momentum=rule.momentum, nesterov=rule.nesterov)
    return torch.optim.AdamW(groups, lr=1.0, betas=rule.betas, eps=rule.eps)


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("name", RULES)
def test_every_step_is_torchs_or_the_papers(name, clip):
    """In float64 there; LARS and LAMB by the rules that test_optim.py holds to their papers. The average, the copies in
    16 bits, and gradients that were scaled, too; and the same bits when it is done again."""
    rule = RULES[name]
    runs = [Ours(replace(rule, clip=clip)) for _ in range(2 if clip else 1)]
    ours, again = runs[0], runs[-1]
    theirs = {n: torch.tensor(x).double().requires_grad_() for n, x in numbers(0).items()}
    running = torch.full((7,), 2.0, dtype=torch.float64)
    everything = {**{n: p.detach() for n, p in theirs.items()}, "bn.running_mean": running}
    average = Average(0.75)
    average.update(everything)
    papers = name in ("lars", "lamb")
    reference = ByParameter(fresh(rule, clip=clip), None, dict) if papers else of_torch(rule, theirs)
    for step in range(3):
        gradients, lr = numbers(step + 1), 0.125 / (1 + step)
        scaled = {n: SCALE * g for n, g in gradients.items()}
        for o in runs:
            o.running += 0.5
            assert not o.rounded.current
            assert o.step(scaled, lr, scale=SCALE)
            assert o.rounded.current
        for n, p in theirs.items():
            p.grad = torch.tensor(gradients[n]).double()
        if papers:
            reference({n: p.detach() for n, p in theirs.items()}, {n: p.grad for n, p in theirs.items()}, lr)
        else:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
            for group, n in zip(reference.param_groups, theirs, strict=True):
                group["lr"] = lr * rule.rates.get(n, 1.0)
            reference.step()
        running += 0.5
        average.update(everything)
        for n, p in ours.live.items():
            # a few dozen fp32 roundings of numbers below 8, at three steps; Adam divides by roots that are not small
            torch.testing.assert_close(p.double().cpu(), theirs[n].detach(), rtol=1e-5, atol=1e-5)
            assert torch.equal(p, again.live[n])
        for n, a in ours.average.values.items():
            torch.testing.assert_close(a.double().cpu(), average.values[n], rtol=1e-5, atol=1e-5)
        for n, copy in ours.rounded.copies.items():
            assert torch.equal(copy, ours.live[n].bfloat16())
        for o in runs:
            o.live["fc.weight"] += 0.0  # whoever changes a parameter in place leaves its copy behind
    assert tuple(ours.update.optimiser.slots) == remembered(rule)


def remembered(rule):
    """What PyTorch calls that which a rule remembers."""
    if isinstance(rule, AdamW):
        return ("exp_avg", "exp_avg_sq")
    return ("momentum",) if rule.momentum else ()


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    ours = Ours(replace(RULES["adamw"], clip=1.0))
    assert ours.step(numbers(1), 0.1, check=True)
    before = [x.clone() for x in (*ours.live.values(), *ours.average.values.values())]
    gradients = numbers(2)
    gradients["conv.weight"][-1] = bad
    assert not ours.step(gradients, 0.1, check=True)
    assert all(map(torch.equal, before, (*ours.live.values(), *ours.average.values.values())))
    assert ours.update.optimiser.steps == 1
    large = {n: np.full_like(g, 1e30) for n, g in numbers(3).items()}  # whose squares fp32 has not
    assert ours.step(large, 0.1, check=True)


@pytest.mark.parametrize("name", RULES)
def test_launches_are_few_and_tables_are_written_once(name, monkeypatch):
    launched = []
    for kernel in ("sums_of_many", "moments_of_many", "update_of_many"):

        class Counted:
            def __getitem__(self, grid):
                return lambda *arguments, **options: launched.append(grid)

        monkeypatch.setattr(optimisers, kernel, Counted())
    counts = []
    for changes, options in (({}, {}), ({"clip": 1.0}, {}), ({}, {"check": True})):
        ours = Ours(replace(RULES[name], **changes))
        gradients = {n: torch.tensor(g, device=DEVICE) for n, g in numbers(1).items()}
        launched.clear()
        ours.update(ours.live, gradients, 0.1, **options)
        tables = ours.update._tables
        ours.update(ours.live, gradients, 0.1, **options)
        assert ours.update._tables is tables
        counts.append(len(launched) / 2)
    assert tuple(counts) == LAUNCHES[name]


def test_a_parameter_or_gradient_of_zero_is_not_rescaled():
    for name in ("lars", "lamb"):
        ours = Ours(replace(RULES[name], decays={}, rates={}, weight_decay=0.0))
        ours.live["conv.weight"].zero_()
        kept = ours.live["fc.weight"].clone()
        gradients = {**{n: np.ones_like(g) for n, g in numbers(1).items()}, "fc.weight": np.zeros(1024, np.float32)}
        ours.step(gradients, 0.5)
        np.testing.assert_allclose(ours.live["conv.weight"].cpu(), -0.5, rtol=1e-5)
        assert torch.equal(ours.live["fc.weight"], kept)


def test_the_loop_trains_by_few_launches_and_resumes_to_the_bit(tmp_path, monkeypatch):
    """All of it at once, fp16 with a scale among it, on Triton's kernels: what it does parameter by parameter."""
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((4, 2, 5, 5)).astype(np.float32), rng.integers(0, 3, 4)) for _ in range(4)]
    b = tricnn.GraphBuilder("net")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (2, 5, 5)), 4, 3, bias=False, name="conv"), name="bn"))
    graph = b.build(b.linear(b.flatten(x), 3, name="fc"))
    options = TrainOptions(
        epochs=1,
        batch=4,
        lr=0.01,
        optimiser="lamb",
        clip=0.5,
        accumulate=2,
        ema=0.5,
        groups=(ParameterGroup("fc", lr=2.0),),
        decay_vectors=False,
        weight_decay=0.1,
        checkpoint_every=1,
        loss_scaling=LossScaling(1024.0, growth_interval=1),
    )
    made = tricnn.compile(graph, "train", 4, "fp16", "triton")
    start = made.state_dict()

    def trained(out, callbacks=(), resume=False):
        made.load_state_dict(start)
        result = Trainer(made, (batches, batches[:1]), options, callbacks, out=out, resume=resume).fit()
        return result.state_sha256, made.state_dict(), (out / AVERAGED).read_bytes()

    _, plain, _ = trained(tmp_path / "plain")
    monkeypatch.setattr(updates, "on_gpu", lambda model: True)
    sha, few, average = trained(tmp_path / "few")
    for name, x in plain.items():
        np.testing.assert_allclose(few[name], x, rtol=1e-4, atol=1e-5)
    with pytest.raises(Failing):
        trained(tmp_path / "stopped", [StopAfter(2)])
    assert trained(tmp_path / "stopped", resume=True)[::2] == (sha, average)
