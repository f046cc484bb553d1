"""Launches of every network, training (without the optimiser's one) and inference, as recorded for the policy of fewest
bytes: growth is seen here.

Bytes per image are the issue of fusion; the bounds are those of a scheme that stores each activation once, in bf16 at
batch 256 (docs/training-fusion.md), and a compiler that fuses only passes and reductions moves about twice as many.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.static_checks import NETWORKS
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.from_graph import lowered
from tricnn.machine import tuned_files

DOCS = Path(__file__).resolve().parents[2] / "docs"
LAUNCHES = {
    "lenet": (17, 5),
    "lenet_sigmoid": (17, 5),
    "lenet5": (44, 18),
    "alexnet": (32, 11),
    "alexnet_lecture": (32, 11),
    "alexnet_2012": (36, 13),
    "vgg11": (35, 11),
    "vgg11_bn": (57, 11),
    "vgg13": (41, 13),
    "vgg13_bn": (71, 13),
    "vgg16": (50, 16),
    "vgg16_bn": (86, 16),
    "vgg19": (59, 19),
    "vgg19_bn": (101, 19),
    "inception_block": (16, 6),
    "googlenet": (181, 56),
    "googlenet_bn": (168, 54),
    "inception_bn": (226, 65),
    "inception_v3": (359, 90),
    "inception_v4": (538, 139),
    "inception_resnet_v2": (723, 197),
    "resnet18": (95, 23),
    "resnet34": (168, 39),
    "resnet50": (185, 55),
    "resnet101": (355, 106),
    "resnet152": (525, 157),
    "resnet18_v2": (101, 23),
    "resnet34_v2": (173, 39),
    "resnet50_v2": (214, 56),
    "resnet101_v2": (401, 107),
    "resnet152_v2": (588, 158),
    "resnext50_32x4d": (201, 55),
    "resnext101_32x8d": (411, 106),
    "resnext101_64x4d": (411, 106),
    "wide_resnet50_2": (198, 55),
    "wide_resnet101_2": (385, 106),
    "seresnet18": (169, 48),
    "seresnet34": (314, 91),
    "seresnet50": (344, 103),
    "seresnet101": (684, 205),
    "seresnet152": (1024, 307),
    "regnet_x_400mf": (266, 73),
    "regnet_x_800mf": (206, 55),
    "regnet_x_1_6gf": (227, 61),
    "regnet_x_3_2gf": (302, 82),
    "regnet_x_8gf": (298, 76),
    "regnet_y_400mf": (362, 103),
    "regnet_y_800mf": (321, 91),
    "regnet_y_1_6gf": (595, 169),
    "regnet_y_3_2gf": (483, 133),
    "regnet_y_8gf": (394, 109),
    "repvgg_a0": (231, 24),
    "repvgg_a1": (229, 24),
    "repvgg_a2": (242, 24),
    "repvgg_b0": (291, 30),
    "repvgg_b1": (306, 30),
    "densenet121": (548, 123),
    "densenet161": (721, 163),
    "densenet169": (749, 171),
    "densenet201": (893, 203),
    "squeezenet1_0": (87, 30),
    "squeezenet1_1": (87, 30),
    "mobilenet_v2": (170, 54),
    "mobilenet_v3_large": (230, 73),
    "mobilenet_v3_small": (206, 64),
    "mnasnet0_5": (168, 54),
    "mnasnet0_75": (169, 54),
    "mnasnet1_0": (166, 54),
    "mnasnet1_3": (168, 54),
    "efficientnet_b0": (318, 99),
    "efficientnet_b1": (450, 140),
    "efficientnet_b2": (452, 140),
    "efficientnet_b3": (517, 158),
    "efficientnet_b4": (630, 194),
    "efficientnet_b5": (766, 235),
    "efficientnet_b6": (885, 271),
    "efficientnet_b7": (1078, 330),
    "efficientnet_v2_s": (695, 202),
    "convnext_tiny": (244, 83),
    "convnext_small": (460, 155),
    "convnext_base": (460, 155),
    "shufflenet_v2_x0_5": (262, 72),
    "shufflenet_v2_x1_0": (267, 72),
    "shufflenet_v2_x1_5": (266, 72),
    "shufflenet_v2_x2_0": (292, 72),
    "cifar_resnet20": (87, 25),
    "cifar_resnet32": (133, 37),
    "cifar_resnet44": (179, 49),
    "cifar_resnet56": (225, 61),
    "cifar_resnet110": (432, 115),
    "cifar_resnet20_bn_after_addition": (86, 25),
    "cifar_resnet20_relu_before_addition": (87, 25),
    "cifar_resnet20_relu_preactivation": (87, 25),
    "cifar_resnet20_preactivation": (88, 25),
    "unet": (120, 23),
    "fcn_resnet50": (246, 54),
    "deeplabv3_resnet50": (289, 62),
}
#: deeper members made of the same blocks as a shallower one, and those that take more than a second or two to plan
DEEP = [
    "vgg13",
    "vgg13_bn",
    "vgg19",
    "vgg19_bn",
    "resnet34",
    "resnet34_v2",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "resnet101",
    "resnet152",
    "resnet101_v2",
    "resnet152_v2",
    "cifar_resnet110",
    "inception_v4",
    "inception_resnet_v2",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "seresnet34",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "repvgg_a1",
    "repvgg_a2",
    "repvgg_b0",
    "repvgg_b1",
    "unet",
    "fcn_resnet50",
    "deeplabv3_resnet50",
]
#: MB per image, training
BYTES = {"resnet18": 53, "resnet50": 245, "vgg16_bn": 260, "googlenet_bn": 79}
#: the same where predicted time decides: operands that 3x3 convolutions would form nine times over are stored
FAST_BYTES = {"resnet18": 59, "resnet50": 252, "vgg16_bn": 282, "googlenet_bn": 91}
#: the share of the unfused bytes that a fused training step may move
SHARE = dict.fromkeys(
    [
        "mobilenet_v2",
        "mobilenet_v3_large",
        "shufflenet_v2_x1_0",
        "densenet121",
        "efficientnet_b0",
        "regnet_y_400mf",
        "convnext_tiny",
        "unet",
    ],
    0.55,
)


class Figures(NamedTuple):
    """Of a program at batch 256; bytes are in MB an image."""

    launches: int
    moved: float
    activations: float  # at the fullest, weights not among them


@cache
def figures(name: str, mode: str, fuse: str = "all") -> Figures:
    """What several tests look at. The programs themselves are not kept: every search for cycles would visit them.
    Tiles are the rules', whatever a file of tuned ones has: other tiles leave more or fewer partial sums."""
    with tuned_files.only({}):
        program = lowered(ARCHITECTURES[name](), mode, 256, "bf16", "sm_90", fuse=fuse)
    weights = sum(b.bytes(256) for b in program.buffers.values() if b.persistent)
    activations = (program.peak_memory_bytes() - weights) / 256e6
    return Figures(len(program.launches), program.dram_bytes() / 256e6, activations)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in LAUNCHES])
def test_launches(name):
    assert tuple(figures(name, mode).launches for mode in ("train", "infer")) == LAUNCHES[name]


@pytest.mark.parametrize("fuse, most", [("all", BYTES), ("auto", FAST_BYTES)], ids=["all", "auto"])
@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_a_training_step(name, fuse, most):
    assert figures(name, "train", fuse).moved <= most[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARE)
def test_fusion_saves_bytes_of_depthwise_and_of_concatenated_layers_too(name):
    assert figures(name, "train").moved <= SHARE[name] * figures(name, "train", "none").moved


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_of_machine_code_says_what_fusion_saves(name):
    """Launches and bytes of both modes, by fewest bytes; and the share of the unfused bytes, of the default, too."""
    cells = [f"`{name}`"]
    for mode in ("train", "infer"):
        fused, unfused, default = (figures(name, mode, fuse) for fuse in ("all", "none", "auto"))
        cells += [str(fused.launches), str(unfused.launches), f"{fused.moved:.1f}", f"{unfused.moved:.1f}",
                  f"{fused.moved / unfused.moved:.3f}", f"{default.moved / unfused.moved:.3f}"]  # fmt: skip
    assert f"| {' | '.join(cells)} |" in (DOCS / "static-checks.md").read_text()


def test_every_network_has_its_launches():
    assert set(LAUNCHES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", BYTES)
def test_the_documented_table_is_what_the_plans_say(name):
    fused, unfused = figures(name, "train", "all"), figures(name, "train", "none")
    row = f"| `{name}` | {fused.launches} | {unfused.launches} | {fused.moved:.1f} | {unfused.moved:.1f} "
    row += f"| {unfused.moved / fused.moved:.2f}x |"
    assert row in (DOCS / "training-fusion.md").read_text()


def test_the_readme_has_the_default_plan_of_resnet50():
    """With the tuned tiles that are shipped, as who installs it has them."""
    fused, unfused = (
        lowered(ARCHITECTURES["resnet50"](), "train", 256, "bf16", "sm_90", fuse="auto"),
        figures("resnet50", "train", "none"),
    )
    text = " ".join((DOCS.parent / "README.md").read_text().split())
    launches = f"{len(fused.launches)} launches instead of {unfused.launches}"
    assert f"{launches}, {fused.dram_bytes() / 256e6:.0f} MB an image instead of {unfused.moved:.0f}" in text


@pytest.mark.parametrize("fuse, most", [("all", 300), ("auto", 325)])
def test_resnet50(fuse, most):
    """At most 300 launches a step with the optimiser's, and 25 more where values are stored to save time; 42 MB of
    activations an image, and 56 MB moved by inference."""
    train = figures("resnet50", "train", fuse)
    assert train.launches + 1 <= most and train.activations <= 42
    assert figures("resnet50", "infer", fuse).moved <= 56
