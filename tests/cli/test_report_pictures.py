"""The pictures of the page: where boxes go, and that the backward pass is the forward pass's mirror image."""

import itertools
import random
import re

import pytest

from tricnn.graphs import lenet, resnet18
from tricnn.lower.from_graph import lowered
from tricnn.report.page import charts
from tricnn.report.page.facts import gathered
from tricnn.report.page.layered import layered
from tricnn.report.page.network_picture import Network


def drawn(edges, count):
    return layered({str(n): (80.0, 40.0) for n in range(count)}, [(str(a), str(b)) for a, b in edges])


def test_a_chain_is_a_straight_line():
    made = drawn([(n, n + 1) for n in range(6)], 7)
    assert len({x for x, _ in made.places.values()}) == 1 and made.width == 80
    assert all(len({x for x, _ in route}) == 1 for route in made.routes.values())


def test_branches_lie_side_by_side_and_what_joins_them_in_the_middle():
    made = drawn([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], 5)
    xs = [made.places[str(n)][0] for n in range(5)]
    assert xs[0] == pytest.approx(xs[4]) == pytest.approx(sorted(xs[1:4])[1])
    assert made.places["1"][1] == made.places["2"][1] == made.places["3"][1]


def test_a_skipping_edge_goes_around_what_it_skips():
    made = drawn([(0, 1), (1, 2), (0, 2)], 3)
    bends = made.routes["0", "2"][1:-1]
    assert bends and all(abs(x - made.places["1"][0]) > 40 for x, _ in bends)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_never_overlap_and_edges_run_downwards(seed):
    dice = random.Random(seed)
    count = dice.randint(2, 25)
    edges = [(a, b) for b in range(1, count) for a in {dice.randrange(b) for _ in range(dice.randint(1, 3))}]
    made = drawn(edges, count)
    for (ax, ay), (bx, by) in itertools.combinations(made.places.values(), 2):
        assert abs(ax - bx) >= 80 or abs(ay - by) >= 40
    for a, b in edges:
        assert made.places[str(a)][1] < made.places[str(b)][1]
    assert all(x - 40 >= 0 and x + 40 <= made.width + 1e-6 for x, _ in made.places.values())


@pytest.fixture(scope="module")
def network():
    def of(declared, mode):
        fused, unfused = (lowered(declared, mode, 64, "bf16", "sm_90", fuse=fuse) for fuse in ("auto", "none"))
        return Network(gathered(declared, fused, unfused))

    return of


def test_the_backward_pass_is_the_mirror_image(network):
    net = network(lenet(), "train")
    picture = net.picture(net.facts["scopes"])
    boxes = [box for box in picture.boxes if not box.outside]
    half = len(boxes) // 2
    for forward, backward in zip(boxes[:half], boxes[half:], strict=True):
        assert forward.name == backward.name and forward.y == backward.y
        assert forward.x + backward.x + forward.width == pytest.approx(2 * picture.middle)
    saved = [line.title for line in picture.lines if line.kind == "saved"]
    assert any(
        title.startswith("saved for the gradients of conv2: act1") for title in saved
    )  # wgrad of conv2 reads act1


def test_fused_layers_have_one_colour_and_a_thick_line(network):
    """Inference of LeNet: convolution, activation and pooling are one kernel; what conv2 reads went through memory."""
    net = network(lenet(), "infer")
    picture = net.picture(net.facts["scopes"])
    assert picture.middle == 0
    kernel = {box.name: box.kernels for box in picture.boxes}
    assert kernel["conv1"] == kernel["act1"] == kernel["pool1"] == ("k00_conv1",) != kernel["conv2"]
    kinds = {line.title.split()[0] + ">" + line.title.split()[2]: line.kind for line in picture.lines}
    assert kinds["conv1>act1"] == kinds["act1>pool1"] == "fused" and kinds["pool1>conv2"] == "memory"


def test_merged_layers_have_the_kernel_that_computes_them(network):
    """A block's first convolution and its downsampling read the same image: one kernel, which both layers show."""
    net = network(resnet18(), "train")
    layers = net.facts["layers"]
    together = set(layers["layer2.0.conv1"]["forward"]) & set(layers["layer2.0.downsample.0"]["forward"])
    merged = [k["name"] for k in net.facts["kernels"] if any(n["name"] == "layer2.0.siblings" for n in k["nodes"])]
    assert not merged or merged[0] in together
    names = set(layers)
    assert all(set(layer["inputs"]) <= names for layer in layers.values())
    for kernel in net.facts["kernels"]:
        assert kernel["layer"] in names, kernel["name"]


def test_bars_are_as_high_as_their_bytes(network):
    facts = network(lenet(), "train").facts
    chart = charts.bars(facts)
    heights = [float(re.search(r"v-([\d.]+)h", shape.path)[1]) for shape in chart.shapes]
    volumes = [kernel["dram_bytes"] for kernel in facts["kernels"]]
    largest = max(range(len(volumes)), key=volumes.__getitem__)
    for height, volume in zip(heights, volumes, strict=True):
        assert height == pytest.approx(max(0.5, heights[largest] * volume / volumes[largest]), abs=0.1)


def test_buffers_that_live_at_once_do_not_overlap(network):
    """The rectangles of the arena: launches across, addresses upwards, none upon another."""
    facts = network(lenet(), "train").facts
    chart = charts.arena(facts)
    assert len(chart.shapes) == len(facts["arena"]["buffers"]) > 5
    found = [list(map(float, re.findall(r"-?[\d.]+", shape.path))) for shape in chart.shapes]
    for (ax, ay, aw, ah, _), (bx, by, bw, bh, _) in itertools.combinations(found, 2):
        apart = ax + aw <= bx + 0.2 or bx + bw <= ax + 0.2 or ay + ah <= by + 0.5 or by + bh <= ay + 0.5
        assert apart, "a byte of one buffer is a byte of another while both are needed"


def test_a_roofline_has_only_known_times(network):
    facts = network(lenet(), "train").facts
    assert charts.roofline(facts) is None
    kernels = [dict(kernel) for kernel in facts["kernels"]]
    kernels[0]["simulated_us"] = kernels[0]["dram_bytes"] / 3.35e6  # at the bandwidth of the data sheet: on the roof
    chart = charts.roofline({**facts, "kernels": kernels})
    (point,) = chart.shapes
    (slope, *_) = [list(map(float, re.findall(r"[\d.]+", path))) for kind, path in chart.behind if kind == "roof"]
    (x0, y0, x1, y1) = slope[:4]
    assert point.kernel == kernels[0]["name"]
    assert point.y == pytest.approx(y0 + (y1 - y0) * (point.x - x0) / (x1 - x0), abs=0.2)


@pytest.mark.parametrize("most, expected", [(8.7, [0, 2, 4, 6, 8]), (275, [0, 50, 100, 150, 200, 250]), (0, [0])])
def test_axes_have_round_numbers(most, expected):
    assert charts.steps(most) == expected
