"""The byte model, checked by running: a user compares plans by `dram_bytes`, so kernels must load and store just that,
each address once, and what tiles that overlap load again must be what the plan states."""

from collections.abc import Callable, Iterable

import pytest

from tests.compiler.nets import NETS
from tests.run.networks import KINDS, network
from tricnn.check.counting import BytesCounted, CountedLaunch
from tricnn.check.races import RacesFound
from tricnn.check.verify import both, compiled, verify_model
from tricnn.compiler.pipeline import planned
from tricnn.compiler.plan import Plan
from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.ir import Graph, GraphBuilder
from tricnn.ir.objective import ROWS, Loss
from tricnn.lower.body import Body
from tricnn.lower.lower import LOWERINGS, lower
from tricnn.machine import tiles
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="bytes are counted under Triton's interpreter")


def depthwise() -> Graph:
    """A separable block (Howard et al. 2017) on an odd image, and groups that fill no tile."""
    b = GraphBuilder("depthwise")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 9, 7)), 8, 3, stride=2, padding=1, name="c1"), name="b1"))
    x = b.relu(b.batch_norm(b.conv2d(x, 8, 3, padding=1, groups=8, bias=False, name="dw"), name="b2"))
    x = b.relu(b.batch_norm(b.conv2d(x, 24, 1, bias=False, name="pw"), name="b3"))
    x = b.relu(b.batch_norm(b.conv2d(x, 36, 3, padding=1, stride=2, groups=2, name="c2"), name="b4"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def bottleneck() -> Graph:
    """A block that halves an image of odd size by 1x1 convolutions with strides."""
    b = GraphBuilder("bottleneck")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 9, 9)), 18, 3, padding=1, bias=False, name="c0"), name="b0"))
    y = b.relu(b.batch_norm(b.conv2d(x, 8, 1, stride=2, bias=False, name="c1"), name="b1"))
    y = b.relu(b.batch_norm(b.conv2d(y, 8, 3, padding=1, bias=False, name="c2"), name="b2"))
    y = b.batch_norm(b.conv2d(y, 20, 1, bias=False, name="c3"), name="b3")
    x = b.batch_norm(b.conv2d(x, 20, 1, stride=2, bias=False, name="d"), name="bd")
    return b.build(b.linear(b.global_avg_pool(b.relu(b.add_(x, y))), 3, name="fc"))


def inception() -> Graph:
    """Branches with batch norm, joined on channels twice: what they store and read lies side by side."""
    b = GraphBuilder("inception")
    x = b.max_pool2d(b.relu(b.conv2d(b.input("x", (3, 12, 12)), 6, 5, padding=2, name="stem")), 3, 2)
    for i in range(2):
        with b.scope(f"block{i}"):
            one = b.relu(b.batch_norm(b.conv2d(x, 5, 1, bias=False, name="one"), name="bn1"))
            two = b.relu(b.batch_norm(b.conv2d(x, 4, 1, bias=False, name="reduce"), name="bn2"))
            two = b.relu(b.batch_norm(b.conv2d(two, 7, 3, padding=1, bias=False, name="two"), name="bn3"))
            pooled = b.max_pool2d(x, 3, 1, padding=1)
            pooled = b.relu(b.batch_norm(b.conv2d(pooled, 3, 1, bias=False, name="pool"), name="bn4"))
            x = b.concat([one, two, pooled], name="join")
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def vgg() -> Graph:
    """Convolutions with batch norm and poolings, on an image whose last row and column no window covers."""
    b = GraphBuilder("vgg")
    x = b.input("x", (3, 13, 13))
    for i, filters in enumerate((6, 10)):
        x = b.relu(b.batch_norm(b.conv2d(x, filters, 3, padding=1, name=f"c{i}"), name=f"b{i}"))
        x = b.max_pool2d(x, 2)
    x = b.dropout(b.relu(b.linear(b.flatten(x), 12, name="fc1")), 0.5)
    return b.build(b.linear(x, 3, name="fc2"))


def padded() -> Graph:
    """What is left: channels amid zeros, as in a shortcut without parameters, and softmax as a layer."""
    b = GraphBuilder("padded")
    x = b.conv2d(b.input("x", (3, 6, 6)), 4, 3, padding=1, name="c1")
    y = b.conv2d(b.relu(x), 8, 3, stride=2, padding=1, name="c2")
    x = b.add("pad_channels", b.avg_pool2d(x, 1, 2), before=2, after=2)
    return b.build(b.softmax(b.linear(b.flatten(b.add_(x, y)), 3, name="fc")))


def masked() -> Graph:
    """Numbers for each pixel, by which all its channels are multiplied: their gradient is a sum of channels. One is the
    maximum of the channels itself."""
    b = GraphBuilder("masked")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 6, 6)), 6, 3, padding=1, bias=False, name="c1"), name="b1"))
    mask = b.sigmoid(b.conv2d(x, 1, 3, padding=1, name="c2"))
    x = b.add("mul", b.add("mul", x, mask, name="masked"), b.max_channels(x))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def boxes() -> Graph:
    """Images of 8x7 pixels that 3x3 convolutions multiply as they lie in memory, forwards and backwards: in boxes of
    4x8, some of whose pixels are not there, and some of whose channels; with statistics, and with a result of more
    channels than a tile."""
    b = GraphBuilder("boxes")
    x = b.relu(b.conv2d(b.input("x", (3, 8, 7)), 40, 3, padding=1, name="c0"))
    y = b.relu(b.batch_norm(b.conv2d(x, 32, 3, padding=1, bias=False, name="c1"), name="b1"))
    x = b.relu(b.add_(x, b.batch_norm(b.conv2d(y, 40, 3, padding=1, name="c2"), name="b2")))
    x = b.relu(b.conv2d(x, 64, (3, 1), padding=(2, 0), dilation=(2, 1), name="c3"))
    x = b.relu(b.conv2d(x, 32, 3, padding=1, name="c4"))
    one, two = (b.relu(b.conv2d(x, 32, 1, name=name)) for name in ("one", "two"))  # one kernel: two lies amid one
    x = b.concat([one, b.relu(b.conv2d(two, 64, 3, padding=1, name="three"))])
    x = b.relu(b.conv2d(x, 32, 1, name="c5"))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def rows() -> Graph:
    """Images of 5x16 pixels and few channels, which 3x3 convolutions and their gradients take row by row; with
    statistics, and with sums of gradients."""
    b = GraphBuilder("rows")
    x = b.relu(b.conv2d(b.input("x", (3, 5, 16)), 32, 1, name="c0"))
    x = b.relu(b.batch_norm(b.conv2d(x, 32, 3, padding=1, bias=False, name="c1"), name="b1"))
    x = b.conv2d(b.relu(b.conv2d(x, 32, 3, padding=1, name="c2")), 8, 1, name="c3")
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def packs() -> Graph:
    """The same in six groups, of which four are multiplied together, and in two that do not fill their tiles."""
    b = GraphBuilder("packs")
    x = b.relu(b.conv2d(b.input("x", (3, 3, 16)), 48, 1, name="c0"))
    x = b.relu(b.batch_norm(b.conv2d(x, 48, 3, padding=1, groups=6, bias=False, name="c1"), name="b1"))
    x = b.conv2d(b.relu(b.conv2d(x, 48, 3, padding=1, groups=2, name="c2")), 8, 1, name="c3")
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def groups_with_a_stride() -> Graph:
    """Five groups of 8 channels, which are multiplied together by blocks of 16."""
    b = GraphBuilder("groups_with_a_stride")
    x = b.relu(b.conv2d(b.input("x", (3, 4, 16)), 40, 1, name="c0"))
    x = b.relu(b.conv2d(x, 40, 3, padding=1, stride=2, groups=5, bias=False, name="c1"))
    return b.build(b.linear(b.global_avg_pool(b.conv2d(x, 8, 1, name="c2")), 3, name="fc"))


def pixel_norm() -> Graph:
    """A block of ConvNeXt: layer norm over the channels of each pixel, 6 of them, which fill no tile."""
    b = GraphBuilder("pixel_norm")
    x = b.conv2d(b.input("x", (3, 6, 4)), 6, 2, stride=2, name="stem")
    y = b.layer_norm(b.conv2d(x, 6, 3, padding=1, groups=6, name="dw"), name="norm")
    y = b.pixel_linear(b.add("gelu", b.pixel_linear(y, 12, name="wide")), 6, name="narrow")
    x = b.add_(b.layer_scale(y, name="scale", init="constant(0.5)"), x)
    return b.build(b.linear(b.flatten(b.layer_norm(b.global_avg_pool(x), name="last")), 3, name="fc"))


def standardised() -> Graph:
    """A weight that is computed of another one: its filters have mean 0 and variance 1, and a gain each; and slopes of
    channels that are one number."""
    b = GraphBuilder("standardised")
    w = b.add("standardize_filters", b.parameter("w", (6, 3, 3, 3), "he_normal"))
    w = b.add("scale_filters", w, b.parameter("gain", (6,), "constant(1)"))
    x = b.add("conv2d", b.input("x", (3, 5, 4)), w, padding=1, name="c1")
    x = b.add("prelu", x, b.add("repeat_number", b.parameter("slope", (1,), "constant(0.25)"), channels=6))
    return b.build(b.linear(b.global_avg_pool(x), 3, name="fc"))


def dense() -> Graph:
    """A dense layer, for what a loss reads and writes."""
    b = GraphBuilder("dense")
    return b.build(b.linear(b.input("x", (5,)), 7, name="fc"))


GRAPHS = {
    **{kind: network(kind) for kind in KINDS},
    **{f"net_{g.name}": g for g in NETS if g.name in ("lenet", "branches", "preactivation")},
    **{
        g.name: g
        for g in (depthwise(), bottleneck(), inception(), vgg(), padded(), masked(), pixel_norm(), standardised())
    },
}


#: those that are run with the tiles of a GPU: smaller than the interpreter's, so more programs, which could race
RACED = (*KINDS, "inception")
CASES = [(name, mode, True) for name in GRAPHS for mode in ("train", "infer")]
CASES += [(name, "train", False) for name in (*KINDS, "pixel_norm", "standardised")]
LOSSES = [(loss, fuse) for loss in ROWS for fuse in (True, False)]  # over targets: a label is one of the networks above


def count(
    graph: Graph, mode: str, fuse: bool = True, dtype: str = "bf16", target: str | None = None, loss: Loss | None = None
) -> list[CountedLaunch]:
    """What every launch moves, of a model whose values are right; with a GPU's tiles no launch has a race either."""
    model = compiled(graph, mode=mode, batch=3, dtype=dtype, fuse=fuse, target=target, loss=loss or Loss())
    counted, raced = BytesCounted(model, 3), RacesFound(model, 3)
    checks = verify_model(model, 3, watch=both(counted, raced) if target else counted)
    assert checks and [c for c in checks if not c.ok] == []
    assert [str(race) for race in raced.races] == []
    return counted.launches


def plan(graph: Graph, mode: str, fuse: bool, loss: Loss | None = None) -> Plan:
    return planned(graph, mode, "all" if fuse else "none", loss=loss)


def differences(launches: Iterable[CountedLaunch]) -> list[str]:
    """By how much what was counted differs from the plan."""
    return [
        f"{c.launch.function} ({c.launch.kind}), {buffer}: {what} {getattr(found, what)} bytes, planned "
        f"{getattr(c.planned[buffer], what)}"
        for c in launches
        for buffer, found in c.counted.items()
        for what in ("read", "written", "loaded", "stored")
        if getattr(found, what) != getattr(c.planned[buffer], what)
    ]


@pytest.mark.parametrize(("name", "mode", "fuse"), CASES)
def test_kernels_move_just_the_bytes_of_the_plan(name: str, mode: str, fuse: bool) -> None:
    """To the byte, for each buffer of each launch: read once, written once, and loaded as often as tiles overlap. What
    they compute, in bf16, is within its tolerance, too."""
    launches = count(GRAPHS[name], mode, fuse, target="sm_90" if fuse and name in RACED else None)
    assert launches and differences(launches) == []


@pytest.mark.parametrize(("loss", "fuse"), LOSSES)
def test_losses_of_targets_too(loss: str, fuse: bool) -> None:
    """A probability for each class, which a loss and its gradient read beside the logits."""
    launches = count(dense(), "train", fuse, loss=Loss(loss, mixed=True))
    assert launches and differences(launches) == []


def test_a_target_s_tiles_too() -> None:
    """Smaller ones, which overlap more often."""
    assert differences(count(GRAPHS["depthwise"], "train", dtype="fp32", target="sm_90")) == []


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_boxes_of_images_too(mode: str) -> None:
    """What lies outside an image is not read."""
    launches = count(boxes(), mode, target="sm_90")
    program = lower(plan(boxes(), mode, True), "bf16", 3, "sm_90")
    texts = {f.name: f.text for f in program.functions}
    for template in ("conv2d_boxes(", "matmul_boxes("):
        kinds = {c.launch.kind for c in launches if template in texts[c.launch.function]}
        assert {"conv2d", *(["conv2d_grad_input"] if mode == "train" else [])} <= kinds
    assert any(d.channels for d in program.descriptors.values())
    assert any("conv2d_wgrad_boxes(" in text for text in texts.values()) == (mode == "train")
    assert differences(launches) == []


@pytest.mark.parametrize(
    ("graph", "mode"),
    [(rows, "train"), (rows, "infer"), pytest.param(packs, "train", marks=pytest.mark.slow), (packs, "infer")],
)
def test_runs_of_rows_too(graph: Callable[[], Graph], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two programs load where the run of one ends and that of the other begins, and each its own filters."""
    monkeypatch.setattr(tiles, "programs", lambda target: 2)
    monkeypatch.setattr(tiles, "passing", lambda target: 4)
    monkeypatch.setattr(tiles, "LONG", 1)
    launches = count(graph(), mode, target="sm_90")
    texts = {f.name: f.text for f in lower(plan(graph(), mode, True), "bf16", 3, "sm_90").functions}
    kinds = [c.launch.kind for c in launches if "conv2d_rows(" in texts[c.launch.function]]
    assert set(kinds) == {"conv2d", *(["conv2d_grad_input"] if mode == "train" else [])}
    assert differences(launches) == []


def test_groups_in_blocks_too() -> None:
    """Boxes that reach into the next column's channels, and each row of the gradient as often as rows of taps want."""
    launches = count(groups_with_a_stride(), "train", target="sm_90")
    functions = lower(plan(groups_with_a_stride(), "train", True), "bf16", 3, "sm_90").functions
    called = [f"conv2d_{name}packs(" in function.text for function in functions for name in ("", "wgrad_")]
    assert sum(called) == 3  # forward, by the input, by the weights
    assert differences(launches) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "googlenet_bn"])
def test_whole_networks_too(name: str) -> None:
    assert differences(count(ARCHITECTURES[name](**SMALL[name]), "train")) == []


def test_every_kind_of_kernel_is_counted() -> None:
    kernels = [k for name, mode, fuse in CASES for k in plan(GRAPHS[name], mode, fuse).kernels]
    kernels += [k for loss, fuse in LOSSES for k in plan(dense(), "train", fuse, Loss(loss, mixed=True)).kernels]
    frozen = {
        "stack",
        "concat_filters",
    }  # only in the gradient of batch norm with fixed statistics, which training does not take
    assert set(LOWERINGS) - {kernel.anchor.op for kernel in kernels} == frozen


def test_a_load_that_the_plan_does_not_state_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operand loaded twice: the plan's bytes are the same, what its programs load is not."""
    load = Body.load

    def wasteful(self, value, stem, at, wide=False):  # type: ignore[no-untyped-def]
        found = load(self, value, stem, at, wide)
        self.lines.append(self.lines[-1].replace(f"{found} = ", "again = "))
        return found

    b = GraphBuilder("one")
    graph = b.build(b.relu(b.input("x", (8, 4, 4))))
    assert differences(count(graph, "infer")) == []
    monkeypatch.setattr(Body, "load", wasteful)
    assert differences(count(graph, "infer")) == ["k00_relu1 (pointwise), x: loaded 1536 bytes, planned 768"]


def test_what_a_convolution_loads_by_hand() -> None:
    """3x3 with padding 1: each axis of H pixels is visited 3H - 2 times, by each of 2 tiles of filters; each of the 2
    tiles of rows loads all weights, and the numbers per filter."""
    b = GraphBuilder("one")
    graph = b.build(b.relu(b.conv2d(b.input("x", (16, 6, 5)), 128, 3, padding=1, name="c")))
    model = compiled(graph, mode="infer", batch=3, dtype="fp32", target="sm_90")  # tiles of 64 by 64, at most
    (launch,) = model.program.launches
    rows, columns = -(-3 * 6 * 5 // 32), 2
    x, weight, y = 3 * 6 * 5 * 16, 128 * 16 * 9, 3 * 6 * 5 * 128
    assert model.program.dram_bytes(3) == 4 * (x + weight + 128 + y)
    visits = 3 * (3 * 6 - 2) * (3 * 5 - 2) * 16
    assert model.program.loaded_bytes(launch, 3) == 4 * (columns * visits + rows * (weight + 128))
