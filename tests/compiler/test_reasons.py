"""What is said of an edge is what the fuser found when it tried: the rule, the values and the bytes that decided."""

import re

import pytest

from tests.compiler.nets import NETS
from tricnn.compiler import fuse as fuser
from tricnn.compiler.cost import Cost
from tricnn.compiler.fuse import fuse
from tricnn.compiler.pipeline import planned, specialised
from tricnn.compiler.plan import Decision, Plan
from tricnn.compiler.why import why
from tricnn.graphs import googlenet_bn, inception_v3, resnet18
from tricnn.ir import Graph, GraphBuilder


def decision(plan: Plan, producer: str, consumer: str) -> Decision:
    return next(d for d in plan.decisions if (d.producer, d.consumer) == (producer, consumer))


def reason(graph: Graph, producer: str, consumer: str, policy: str = "all", mode: str = "infer") -> str:
    found = decision(planned(graph, mode, policy), producer, consumer)
    assert not found.fused
    return found.rule


def chain() -> GraphBuilder:
    b = GraphBuilder("net")
    b.conv2d(b.input("x", (3, 12, 12)), 8, 3, name="first")
    return b


def test_a_contraction_says_what_it_sums_over() -> None:
    b = chain()
    x = b.conv2d("first", 4, 3, name="second")
    graph = b.build(b.linear(b.flatten(x), 5, name="fc"))
    assert reason(graph, "first", "second") == (
        "epilogue: conv2d sums over 8 channels and 3x3 pixels, which several programs compute"
    )
    assert reason(graph, "second", "fc") == (
        f"epilogue: linear sums over {4 * 8 * 8} channels, which several programs compute"
    )


@pytest.mark.parametrize(
    "size, more, words",
    [
        (3, {"stride": 2}, "windows of 3x3 at a stride of 2x2 overlap"),
        (2, {"padding": 1}, "reach into padding of (1, 1, 1, 1)"),
        (5, {}, "a window of 25 pixels"),
        (4, {"ceil_mode": True}, "cut off"),
    ],
)
def test_a_pooling_says_which_windows(size: int, more: dict[str, object], words: str) -> None:
    b = chain()
    graph = b.build(b.max_pool2d("first", size, name="pool", **more))
    assert words in reason(graph, "first", "pool") and reason(graph, "first", "pool").startswith("pooling: ")


def test_pixels_that_are_needed_elsewhere_name_the_value() -> None:
    b = chain()
    b.output(b.avg_pool2d("first", 4, name="pool"), "pooled")
    b.output(b.conv2d("first", 4, 1, name="other"), "other")
    assert reason(b.build(), "first", "pool").endswith("no window covers are needed elsewhere, of first")


def test_a_join_says_for_which_branch_it_waits() -> None:
    b = chain()
    long = b.conv2d(b.conv2d("first", 8, 3, padding=1, name="a"), 8, 3, padding=1, name="b")
    graph = b.build(b.relu(b.add("add", "first", long, name="join")))
    said = reason(graph, "first", "join")
    assert said == "epilogue: the reader also needs b, which is computed after first"
    assert decision(planned(graph, "infer", "all"), "b", "join").fused


def test_bytes_that_decided_are_those_of_the_rule() -> None:
    """Two operands and five readers: recomputed 5 * 2 values of 8 channels and 10x10 pixels, stored 2 + 1 + 5."""
    b = chain()
    join = b.add("add", "first", b.conv2d("x", 8, 3, name="other"), name="join")
    for number in range(5):
        b.output(b.conv2d(join, 4, 3, name=f"reader{number}"), f"y{number}")
    value = 8 * 10 * 10 * 2
    said = reason(b.build(), "join", "reader0", policy="prologue")
    assert f"recomputed 5 times it moves {10 * value / 1e3:.1f} kB" in said
    assert f"stored once {8 * value / 1e3:.1f} kB" in said
    assert reason(b.build(), "join", "reader0", policy="epilogue").startswith(
        "prologue: not a rule of the policy epilogue"
    )


def test_a_price_that_decided_is_that_of_the_plan() -> None:
    plan = planned(resnet18(), "train", "auto", Cost(8, "bf16", "sm_90"))
    told = [d for d in plan.decisions if "predicted to be faster" in d.rule]
    assert len(told) > 10
    for d in told:
        together, apart = plan.prices[d.producer]
        found = re.search(r"more than (\d+)%: its kernels take ([\d.]+) us, ([\d.]+) us if they recompute", d.rule)
        assert found and f"{apart * 1e6:.2f}" == found[2] and f"{together * 1e6:.2f}" == found[3]
        assert apart < together * (1 - int(found[1]) / 100)


def test_statistics_and_what_needs_them() -> None:
    b = chain()
    x = b.batch_norm("first", name="bn")
    graph = b.build(b.linear(b.global_avg_pool(b.relu(x)), 5, name="fc"))
    plan = planned(graph, "train", "all")
    said = decision(plan, "first", "bn").rule
    assert said == "epilogue: the reader also needs bn.stats, which is complete when the kernel ends"
    assert "bn.stats is a reduction's result (batch_stats)" in decision(plan, "bn.stats", "bn").rule


def test_a_copy_says_which_part_has_no_place() -> None:
    b = chain()
    y = b.conv2d("x", 3, 3, padding=1, name="y")
    graph = b.build(b.concat([y, "x"], name="whole"))
    assert reason(graph, "y", "whole").startswith("placement: no kernel stores x (input)")


CHECKS = {
    "why_not_pooled": ("first", "pool", "pooling"),
    "why_not_pointwise": ("second", "act", "epilogue"),
    "why_late": ("second", "act", "epilogue"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_reason_is_what_the_check_answered(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that refuses anything: the edge is not fused, and what is printed is the check's own answer."""
    producer, consumer, rule = CHECKS[check]
    b = chain()
    pooled = b.max_pool2d("first", 2, name="pool")
    graph = b.build(b.relu(b.conv2d(pooled, 4, 3, name="second"), name="act"))
    assert decision(planned(graph, "infer", "all"), producer, consumer).fused
    monkeypatch.setattr(fuser, check, lambda *arguments: why("the test {verb} so", verb="says"))
    found = decision(planned(graph, "infer", "all"), producer, consumer)
    assert not found.fused and f"{rule}: the test says so" in found.rule
    assert f"{rule}: the test <verb> so" in found.general


@pytest.mark.parametrize("name, check", [("side_sums", "why_not_along"), ("prologue", "why_not_inlined")])
def test_so_in_training(name: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b = chain()
    x = b.relu(b.batch_norm("first", name="bn"), name="act")
    graph = specialised(b.build(b.linear(b.global_avg_pool(b.conv2d(x, 4, 3, name="second")), 5)), "train")
    edge = {"side_sums": ("first", "bn.stats"), "prologue": ("act", "second")}[name]
    assert decision(fuse(graph, "train"), *edge).fused
    monkeypatch.setattr(fuser, check, lambda *arguments: why("the test says so"))
    found = decision(fuse(graph, "train"), *edge)
    assert not found.fused and f"{name}: the test says so" in found.rule


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("graph", [*NETS, resnet18(), googlenet_bn(), inception_v3()], ids=lambda g: g.name)
def test_every_reason_names_a_rule_that_was_tried(graph: Graph, mode: str) -> None:
    rules = "|".join(("siblings", *fuser.Fuser(graph, mode, "all", None).rules))
    for policy in ("all", "epilogue", "prologue,placement"):
        for d in planned(graph, mode, policy).decisions:
            if not d.fused:
                assert all(re.match(rf"({rules}): \S", part) for part in d.rule.split("; ")), d
                assert "<" not in d.rule and "{" not in d.rule
