"""What is said of an edge is what the fuser found when it tried: the rule, the values and the bytes that decided."""

import re
from functools import cache

import pytest

from tests.compiler.nets import NETS
from tricnn.compiler.cost import Cost
from tricnn.compiler.fusion import following
from tricnn.compiler.fusion.answers import Decision, Why, why
from tricnn.compiler.fusion.epilogue import Epilogue
from tricnn.compiler.fusion.pooling import Pooling
from tricnn.compiler.fusion.prologue import Prologue
from tricnn.compiler.fusion.side_sums import SumOfStored
from tricnn.compiler.pipeline import planned
from tricnn.compiler.plan import Plan
from tricnn.compiler.policies import RULES
from tricnn.graphs import ARCHITECTURES, googlenet_bn, inception_v3, resnet18
from tricnn.ir import Graph, GraphBuilder


def decision(plan: Plan, producer: str, consumer: str) -> Decision:
    return next(d for d in plan.decisions if (d.producer, d.consumer) == (producer, consumer))


def reason(graph: Graph, producer: str, consumer: str, policy: str = "all", mode: str = "infer") -> str:
    found = decision(planned(graph, mode, policy), producer, consumer)
    assert not found.fused
    return found.text


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
    """Two operands and five readers: recomputed 5 * 2 values of 8 channels and 10x10 pixels, stored 2 + 1 + 5. The
    operands are convolutions of two images: of one image their sum would be a single convolution."""
    b = chain()
    join = b.add("add", "first", b.conv2d(b.input("z", (3, 12, 12)), 8, 3, name="other"), name="join")
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
    told = [d for d in plan.decisions if "predicted to be faster" in d.text]
    assert len(told) > 10
    for d in told:
        together, apart = plan.prices[d.producer]
        found = re.search(r"more than (\d+)%: its kernels take ([\d.]+) us, ([\d.]+) us if they recompute", d.text)
        assert found and f"{apart * 1e6:.2f}" == found[2] and f"{together * 1e6:.2f}" == found[3]
        assert apart < together * (1 - int(found[1]) / 100)


def test_statistics_and_what_needs_them() -> None:
    b = chain()
    x = b.batch_norm("first", name="bn")
    graph = b.build(b.linear(b.global_avg_pool(b.relu(x)), 5, name="fc"))
    plan = planned(graph, "train", "all")
    said = decision(plan, "first", "bn").text
    assert said == "epilogue: the reader also needs bn.stats, which is complete only when the kernel ends"
    assert "bn.stats is a reduction's result (batch_stats)" in decision(plan, "bn.stats", "bn").text


def test_a_copy_says_which_part_has_no_place() -> None:
    b = chain()
    y = b.conv2d("x", 3, 3, padding=1, name="y")
    graph = b.build(b.concat([y, "x"], name="whole"))
    assert reason(graph, "y", "whole").startswith("placement: no kernel stores x (input)")


def says_no(*arguments: object) -> Why:
    """A check's answer that nothing passes."""
    return why("the test {verb} so", verb="says")


def refuse_all(monkeypatch: pytest.MonkeyPatch, where: object, check: str) -> None:
    """Let a check refuse whatever it is asked."""
    monkeypatch.setattr(where, check, says_no)


@pytest.mark.parametrize(
    "where, check, producer, consumer, rule",
    [
        (Pooling, "why_not_there", "first", "pool", "pooling"),
        (Epilogue, "why_not_there", "second", "act", "epilogue"),
        (following, "why_late", "second", "act", "epilogue"),
    ],
)
def test_the_reason_is_what_the_rule_answered(
    where: object, check: str, producer: str, consumer: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that refuses anything: the edge is not fused, and what is printed is the check's own answer."""
    b = chain()
    pooled = b.max_pool2d("first", 2, name="pool")
    graph = b.build(b.relu(b.conv2d(pooled, 4, 3, name="second"), name="act"))
    assert decision(planned(graph, "infer", "all"), producer, consumer).fused
    refuse_all(monkeypatch, where, check)
    found = decision(planned(graph, "infer", "all"), producer, consumer)
    assert not found.fused and f"{rule}: the test says so" in found.text
    assert f"{rule}: the test <verb> so" in found.general


@pytest.mark.parametrize(
    "rule, check, edge",
    [(SumOfStored, "why_not_there", ("first", "bn.stats")), (Prologue, "why_not", ("act", "second"))],
)
def test_so_in_training(rule: type, check: str, edge: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    b = chain()
    x = b.relu(b.batch_norm("first", name="bn"), name="act")
    graph = b.build(b.linear(b.global_avg_pool(b.conv2d(x, 4, 3, name="second")), 5))
    assert decision(planned(graph, "train"), *edge).fused
    refuse_all(monkeypatch, rule, check)
    found = decision(planned(graph, "train"), *edge)
    assert not found.fused and f"{rule.name}: the test says so" in found.text


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("graph", [*NETS, resnet18(), googlenet_bn(), inception_v3()], ids=lambda g: g.name)
def test_every_answer_is_of_a_rule_that_was_tried(graph: Graph, mode: str) -> None:
    for policy in ("all", "epilogue", "prologue,placement"):
        for d in planned(graph, mode, policy).decisions:
            assert {answer.rule for answer in d.answers} <= {*RULES}, d
            assert "<" not in d.text and "{" not in d.text and "no rule was tried" not in d.text


#: what the rules of ``all`` answer at sites of real networks: (network, mode, value, reader, answer)
SITES = [
    ("resnet18", "train", "conv1", "bn1.stats", "side_sums: (conv2d(x), batch_stats(conv2d(x))) = conv2d[side sum](x)"),
    ("resnet18", "train", "conv1", "bn1",
     "epilogue: the reader also needs bn1.stats, which is complete only when the kernel ends"),
    ("resnet18", "train", "bn1.stats", "bn1.new_mean",
     "siblings: (s = batch_stats(x), running_mean(s)) = batch_stats[update](x)"),
    ("resnet18", "train", "layer1.0.relu1", "layer1.0.conv2", "prologue: conv2d(relu(z)) = conv2d[prologue](z)"),
    # 64 channels of 56x56 pixels in 16 bits are 401,408 bytes: 4 times 2 of them, or 2 + 1 + 4
    ("resnet18", "train", "layer1.0.relu2", "layer1.1.add",
     "prologue: recomputed 4 times it moves 3.21 MB an image (in 16 bits), stored once 2.81 MB; "
     "epilogue: the reader also needs layer1.1.bn2, which is computed after layer1.0.relu2"),
    ("resnet18", "train", "layer4.0.relu2", "layer4.0.relu2.relu_grad",
     "at_hand: relu(z, ...) from what the kernel loads for other reasons"),
    ("resnet18", "train", "fc", "loss.cross_entropy_grad",
     "siblings: loaded once for cross_entropy_grad and cross_entropy, in one kernel"),
    ("resnet18", "train", "loss.cross_entropy_grad", "fc.channel_sum",
     "side_sums: loaded once for channel_sum and linear_grad_weight, in one kernel"),
    ("resnet18", "train", "maxpool.max_pool2d_index", "maxpool.max_pool2d_grad",
     "epilogue: maxpool.max_pool2d_index is a second result of the kernel of maxpool"),
    ("resnet18", "infer", "bn1", "maxpool", "pooling: windows of 3x3 at a stride of 2x2 overlap or leave gaps"),
    ("resnet18", "infer", "layer1.0.bn2", "layer1.0.add", "epilogue: add(conv2d(x)) = conv2d[epilogue add](x)"),
    ("resnet18", "infer", "relu", "layer1.0.add",
     # 64 channels of 56x56 pixels: 1 + 2 times 1 of them either way, since maxpool would be stored for relu alone
     "prologue: recomputed 2 times it moves 1.20 MB an image (in 16 bits), stored once 1.20 MB; "
     "at_hand: relu takes maxpool, which the epilogue of layer1.0.bn2 does not load; "
     "epilogue: the reader also needs layer1.0.bn2, which is computed after maxpool"),
    ("resnet50", "train", "layer1.0.relu3", "layer1.1.conv1",
     "hosting: (relu(z), conv2d(relu(z))) = conv2d[prologue relu, stored](z)"),
    ("googlenet_bn", "train", "inception3a.branch2.0.conv", "inception3a.branch2.0.bn",
     "prologue: normalize(slice_channels(z)) = normalize[prologue](z)"),
    ("googlenet_bn", "train", "inception5b.branch4.1.conv.grad_input", "inception5b.branch4.0.max_pool2d_grad",
     "epilogue: max_pool2d_grad has windows of 3x3 pixels, which several programs compute"),
    ("googlenet_bn", "train", "inception5b.branch4.0.max_pool2d_grad", "inception5a.concat.add",
     "prologue: the windows of max_pool2d_grad overlap: a pixel's gradient is a sum over several; "
     "epilogue: the reader also needs inception5b.siblings.grad_input, which is computed after "
     "inception5b.branch4.0.max_pool2d_grad"),
    ("googlenet_bn", "infer", "inception3a.relu", "inception3a.concat.whole",
     "placement: concat(x, ...) where x is written into its channels of the whole"),
    ("googlenet_bn", "infer", "conv3.relu", "inception3a.branch4.0",
     "pooling: only a convolution's tiles can be made of whole windows, not those of max_pool2d; "
     "prologue: recomputed 2 times it moves 903 kB an image (in 16 bits), stored once 903 kB"),
    ("vgg11", "infer", "features.0", "features.2", "pooling: max_pool2d(conv2d(x)) = conv2d[windows](x)"),
    ("vgg11_bn", "train", "features.27", "classifier.0",
     "prologue: recomputed 3 times it moves 201 kB an image (in 16 bits), stored once 201 kB; "
     "epilogue: linear sums over 25088 channels, which several programs compute"),
    # relu's result is kept for its gradient, so the dropout of it need not be
    ("vgg11_bn", "train", "classifier.1", "classifier.2",
     "prologue: recomputed 2 times it moves 24.6 kB an image (in 16 bits), stored once 24.6 kB; "
     "epilogue: classifier.2 is recomputed wherever it is read, which moves fewer bytes"),
    ("vgg11_bn", "train", "classifier.2", "classifier.3", "prologue: linear(dropout(z)) = linear[prologue](z)"),
]  # fmt: skip


@cache
def answers(network: str, mode: str) -> dict[tuple[str, str], Decision]:
    return {(d.producer, d.consumer): d for d in planned(ARCHITECTURES[network](), mode, "all").decisions}


@pytest.mark.parametrize("network, mode, value, reader, answer", SITES, ids=lambda x: x if ":" not in x else "")
def test_what_the_rules_answer_in_real_networks(network: str, mode: str, value: str, reader: str, answer: str) -> None:
    assert answers(network, mode)[value, reader].text == answer
