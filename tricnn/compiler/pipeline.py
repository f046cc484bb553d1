"""The passes that take a declared graph to a plan: one list, which everybody runs.

    declared -> expanded -> for inference or training -> folded, tidied, joined, merged -> differentiated -> ... -> plan

A pass runs if its mode is the one compiled for and the policy has the rules of fusion that it prepares for
(policies.py): the unfused plan is of the network as it was declared. Each is a function of the value before it, which
it leaves as it is. ``show``, if given, is called with the name and the result of every pass that ran: TRICNN_DUMP
writes them as files, and ``tricnn explain`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..ir.graph import Graph
from ..ir.objective import Loss
from ..system.errors import TargetError
from .branches import join_branches
from .computed_weights import round_weights
from .cost import Cost
from .differentiate import differentiate, differentiate_open
from .expand import expand
from .fold import fold_batch_norm, fold_sums
from .frozen import freeze, trained
from .fusion import fuser
from .layer_scales import gather_layer_scales
from .modes import MODES, OPEN
from .padding import absorb_padding
from .plan import Plan
from .policies import policy_named, rules_of
from .siblings import join_slices, merge_siblings
from .specialise import for_inference, for_training, tidy, with_batch_statistics, without_detaches
from .strided import compact_strided_gradients

Show = Callable[[str, object], None]


@dataclass(frozen=True)
class Aim:
    """What a graph is compiled for. ``cost`` is the time model that ``auto`` goes by; without one ``auto`` is ``all``.

    ``wants`` are the parameters and inputs whose gradients an open plan gives; ``frozen`` are patterns of what training
    leaves as it is (frozen.py). Raises TargetError for an unknown mode.
    """

    mode: str
    policy: str
    cost: Cost | None = None
    loss: Loss = field(default_factory=Loss)
    wants: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    rules: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.mode not in (*MODES, OPEN):
            raise TargetError(f"mode {self.mode!r} is unknown; accepted: {', '.join(MODES)}")
        object.__setattr__(self, "rules", rules_of(self.policy))

    @property
    def timed(self) -> bool:
        """Whether predicted time decides where fusion may go either way."""
        return self.cost is not None and self.policy == "auto"


@dataclass(frozen=True)
class Pass:
    """One step from a graph to a graph.
    ``name`` says what its result is; ``does`` is its equation, or what it does, in one line. It runs in ``modes`` (in
    every one, if that is empty) where the policy has all ``rules``; with no rule named, under every policy that fuses
    at all; and always if ``rules`` is None."""

    name: str
    does: str
    run: Callable[[Graph, Aim], Graph]
    modes: tuple[str, ...] = ()
    rules: tuple[str, ...] | None = None

    def runs(self, aim: Aim) -> bool:
        """Is it part of this compilation?"""
        if self.modes and aim.mode not in self.modes:
            return False
        return self.rules is None or (bool(aim.rules) and aim.rules.issuperset(self.rules))


def learning(graph: Graph, aim: Aim) -> frozenset[str]:
    """The parameters and inputs whose gradients the plan gives."""
    return frozenset(trained(graph, aim.frozen) if aim.mode == "train" else aim.wants)


MERGING = ("merging", "placement", "prologue")

#: in the order in which they run; a plan is made of what the last one leaves
PASSES = (
    Pass("expanded", "conv_transpose2d(x, w, b) = conv2d_grad_input(x, w, b): rows that mean other rows",
         lambda graph, aim: expand(graph)),
    Pass("for-inference", "dropout(x) = x, detach(x) = x; heads that only training wants are left out",
         lambda graph, aim: for_inference(graph), ("infer",)),
    Pass("for-training", "batch_norm(x) = normalize(x, batch_stats(x)) unless it is frozen; the loss on every output",
         lambda graph, aim: for_training(freeze(graph, aim.frozen), aim.loss), ("train",)),
    Pass("open", "batch_norm(x) = normalize(x, batch_stats(x)); outputs stay, and what follows is somebody else's",
         lambda graph, aim: with_batch_statistics(graph), (OPEN,)),
    Pass("batch-norm-folded", "batch_norm(conv2d(x, w, b)) = conv2d(x, w * s, (b - mean) * s + beta)",
         lambda graph, aim: fold_batch_norm(graph), ("infer",), ()),
    Pass("sums-folded", "conv2d(x, w) + conv2d(x, v) = conv2d(x, w + zeros around v), batch_norm(x) among them",
         lambda graph, aim: fold_sums(graph), ("infer",), ()),
    Pass("tidied", "max_pool2d(relu(x)) = relu(max_pool2d(x)); f(flatten(x)) = flatten(f(x))",
         lambda graph, aim: tidy(graph), (), ()),
    Pass("padding-absorbed", "conv2d(zero_pad2d(x; a), w; b) = conv2d(x, w; a + b)",
         lambda graph, aim: absorb_padding(graph), (), ()),
    Pass("branches-joined", "concat(f(a), f(b)) = f(concat(a, b))",
         lambda graph, aim: join_branches(graph), ("train", OPEN), ("placement", "prologue")),
    Pass("siblings-merged", "conv2d(x, w1), conv2d(x, w2) = slices of conv2d(x, [w1; w2])",
         lambda graph, aim: merge_siblings(graph, aim.mode, learning(graph, aim), aim.timed), (), MERGING),
    Pass("differentiated", "the gradient of the loss in every parameter that is not frozen; then detach(x) = x",
         lambda graph, aim: without_detaches(differentiate(graph, None, trained(graph, aim.frozen), aim.loss.scaled)),
         ("train",)),
    Pass("differentiated", "the gradient of what is wanted, given the gradient of every output; then detach(x) = x",
         lambda graph, aim: without_detaches(differentiate_open(graph, aim.wants)), (OPEN,)),
    Pass("layer-scales-gathered", "wgrad(dy * s, x) = s * wgrad(dy, x); sum(dy * conv2d(x, w)) = w . wgrad(dy, x)",
         lambda graph, aim: gather_layer_scales(graph), ("train", OPEN), ("prologue", "side_sums")),
    Pass("gradients-compacted", "conv2d_grad_input(dy, w; 1x1, stride s) = spread(conv2d_grad_input(dy, w; stride 1))",
         lambda graph, aim: compact_strided_gradients(graph), ("train", OPEN), ("prologue",)),
    Pass("slices-joined", "concat(slice(m), y) = slice(concat(m, y))",
         lambda graph, aim: join_slices(graph), (), MERGING),
    Pass("weights-rounded", "conv2d(x, f(w)) = conv2d(x, round_weight(f(w))), of products in 16 bits",
         lambda graph, aim: round_weights(graph, aim.mode) if aim.cost is None or aim.cost.narrow else graph),
)  # fmt: skip


def planned(
    graph: Graph,
    mode: str,
    fuse: bool | str = True,
    cost: Cost | None = None,
    *,
    loss: Loss | None = None,
    wants: tuple[str, ...] = (),
    frozen: tuple[str, ...] = (),
    show: Show | None = None,
) -> Plan:
    """The plan of a declared graph, by every pass and then fusion.
    ``cost`` is the time model that ``auto`` goes by; without one every rule is used wherever it is legal. ``wants`` are
    the parameters and inputs whose gradients an open plan gives, ``frozen`` patterns of what training leaves as it is.
    Raises TargetError for an unknown mode or policy, GraphError for a graph that cannot be trained."""
    aim = Aim(mode, policy_named(fuse), cost, loss or Loss(), wants, frozen)
    plan = fuser.fuse(_passed(graph, aim, show), aim.mode, aim.policy, aim.cost)
    there = plan.graph.by_name
    left_out = tuple(n.name for n in (*graph.parameters, *graph.buffers) if n.name not in there)
    plan = replace(plan, left_out=left_out)
    if show is not None:
        show("plan", plan)
    return plan


def _passed(graph: Graph, aim: Aim, show: Show | None) -> Graph:
    """The graph after every pass that runs."""
    if show is not None:
        show("declared", graph)
    for step in PASSES:
        if step.runs(aim):
            graph = step.run(graph, aim)
            if show is not None:
                show(step.name, graph)
    return graph
