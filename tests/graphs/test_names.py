"""Every tensor's name and shape, as torchvision and timm have them in the files they publish.

Written down from their sources, layer by layer and without the builders in ``graphs/``: a name that differs in one
letter is a file that does not load.
"""

import pytest

from tricnn import graphs

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, filters: int, channels: int, r: int, s: int | None = None, bias: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (filters, channels, r, s or r)}
    return shapes | ({f"{name}.bias": (filters,)} if bias else {})


def bn(name: str, channels: int) -> Shapes:
    return {f"{name}.{what}": (channels,) for what in ("weight", "bias", "running_mean", "running_var")}


def dense(name: str, features: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (features, inputs), f"{name}.bias": (features,)}


def units(prefix: str, text: str) -> Shapes:
    """``name filters channels RxS`` a line (``;`` between): what torchvision calls BasicConv2d, timm ConvNormAct."""
    shapes: Shapes = {}
    for line in text.replace(";", "\n").split("\n"):
        if line.strip():
            name, filters, channels, size = line.split()
            r, _, s = size.partition("x")
            shapes |= conv(f"{prefix}{name}.conv", int(filters), int(channels), int(r), int(s))
            shapes |= bn(f"{prefix}{name}.bn", int(filters))
    return shapes


# --- torchvision ----------------------------------------------------------------------------------------------------


def alexnet() -> Shapes:
    shapes = conv("features.0", 64, 3, 11, bias=True)
    shapes |= conv("features.3", 192, 64, 5, bias=True)
    shapes |= conv("features.6", 384, 192, 3, bias=True)
    shapes |= conv("features.8", 256, 384, 3, bias=True)
    shapes |= conv("features.10", 256, 256, 3, bias=True)
    return (
        shapes
        | dense("classifier.1", 4096, 9216)
        | dense("classifier.4", 4096, 4096)
        | dense("classifier.6", 1000, 4096)
    )


def vgg(places: dict[int, tuple[int, int]], norm: bool) -> Shapes:
    shapes: Shapes = {}
    for place, (filters, channels) in places.items():
        shapes |= conv(f"features.{place}", filters, channels, 3, bias=True)
        shapes |= bn(f"features.{place + 1}", filters) if norm else {}
    return (
        shapes
        | dense("classifier.0", 4096, 25088)
        | dense("classifier.3", 4096, 4096)
        | dense("classifier.6", 1000, 4096)
    )


VGG11 = ((64, 3), (128, 64), (256, 128), (256, 256), (512, 256), (512, 512), (512, 512), (512, 512))
VGG16 = ((64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256), *[(512, 512)] * 5)


def resnet(depths: tuple[int, ...], bottleneck: bool) -> Shapes:
    shapes = conv("conv1", 64, 3, 7) | bn("bn1", 64)
    channels = 64
    for stage, depth in enumerate(depths):
        planes, out = 64 * 2**stage, 64 * 2**stage * (4 if bottleneck else 1)
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            sizes = [(planes, channels, 1), (planes, planes, 3), (out, planes, 1)]
            if not bottleneck:
                sizes = [(planes, channels, 3), (planes, planes, 3)]
            for number, (k, c, r) in enumerate(sizes, 1):
                shapes |= conv(f"{at}.conv{number}", k, c, r) | bn(f"{at}.bn{number}", k)
            if channels != out:
                shapes |= conv(f"{at}.downsample.0", out, channels, 1) | bn(f"{at}.downsample.1", out)
            channels = out
    return shapes | dense("fc", 1000, channels)


def googlenet() -> Shapes:
    """As published: with the auxiliary heads."""
    shapes = units("", "conv1 64 3 7x7; conv2 64 64 1x1; conv3 192 64 3x3")
    for name, c, a, b1, b2, c1, c2, d in (
        ("3a", 192, 64, 96, 128, 16, 32, 32),
        ("3b", 256, 128, 128, 192, 32, 96, 64),
        ("4a", 480, 192, 96, 208, 16, 48, 64),
        ("4b", 512, 160, 112, 224, 24, 64, 64),
        ("4c", 512, 128, 128, 256, 24, 64, 64),
        ("4d", 512, 112, 144, 288, 32, 64, 64),
        ("4e", 528, 256, 160, 320, 32, 128, 128),
        ("5a", 832, 256, 160, 320, 32, 128, 128),
        ("5b", 832, 384, 192, 384, 48, 128, 128),
    ):
        shapes |= units(
            f"inception{name}.",
            f"branch1 {a} {c} 1x1; branch2.0 {b1} {c} 1x1; branch2.1 {b2} {b1} 3x3; branch3.0 {c1} {c} 1x1;"
            f"branch3.1 {c2} {c1} 3x3; branch4.1 {d} {c} 1x1",
        )
    for name, c in (("aux1", 512), ("aux2", 528)):
        shapes |= units(f"{name}.", f"conv 128 {c} 1x1")
        shapes |= dense(f"{name}.fc1", 1024, 2048) | dense(f"{name}.fc2", 1000, 1024)
    return shapes | dense("fc", 1000, 1024)


def inception_v3() -> Shapes:
    shapes = units(
        "",
        "Conv2d_1a_3x3 32 3 3x3; Conv2d_2a_3x3 32 32 3x3; Conv2d_2b_3x3 64 32 3x3; Conv2d_3b_1x1 80 64 1x1;"
        "Conv2d_4a_3x3 192 80 3x3",
    )
    for name, c, pool in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        shapes |= units(
            f"{name}.",
            f"branch1x1 64 {c} 1x1; branch5x5_1 48 {c} 1x1; branch5x5_2 64 48 5x5; branch3x3dbl_1 64 {c} 1x1;"
            f"branch3x3dbl_2 96 64 3x3; branch3x3dbl_3 96 96 3x3; branch_pool {pool} {c} 1x1",
        )
    shapes |= units(
        "Mixed_6a.",
        "branch3x3 384 288 3x3; branch3x3dbl_1 64 288 1x1; branch3x3dbl_2 96 64 3x3; branch3x3dbl_3 96 96 3x3",
    )
    for name, n in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        shapes |= units(
            f"{name}.",
            f"branch1x1 192 768 1x1; branch7x7_1 {n} 768 1x1; branch7x7_2 {n} {n} 1x7; branch7x7_3 192 {n} 7x1;"
            f"branch7x7dbl_1 {n} 768 1x1; branch7x7dbl_2 {n} {n} 7x1; branch7x7dbl_3 {n} {n} 1x7;"
            f"branch7x7dbl_4 {n} {n} 7x1; branch7x7dbl_5 192 {n} 1x7; branch_pool 192 768 1x1",
        )
    shapes |= units("AuxLogits.", "conv0 128 768 1x1; conv1 768 128 5x5") | dense("AuxLogits.fc", 1000, 768)
    shapes |= units(
        "Mixed_7a.",
        "branch3x3_1 192 768 1x1; branch3x3_2 320 192 3x3; branch7x7x3_1 192 768 1x1; branch7x7x3_2 192 192 1x7;"
        "branch7x7x3_3 192 192 7x1; branch7x7x3_4 192 192 3x3",
    )
    for name, c in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        shapes |= units(
            f"{name}.",
            f"branch1x1 320 {c} 1x1; branch3x3_1 384 {c} 1x1; branch3x3_2a 384 384 1x3; branch3x3_2b 384 384 3x1;"
            f"branch3x3dbl_1 448 {c} 1x1; branch3x3dbl_2 384 448 3x3; branch3x3dbl_3a 384 384 1x3;"
            f"branch3x3dbl_3b 384 384 3x1; branch_pool 192 {c} 1x1",
        )
    return shapes | dense("fc", 1000, 2048)


# --- timm -----------------------------------------------------------------------------------------------------------


def inception_v4() -> Shapes:
    shapes = units("features.", "0 32 3 3x3; 1 32 32 3x3; 2 64 32 3x3; 3.conv 96 64 3x3")
    shapes |= units(
        "features.4.",
        "branch0.0 64 160 1x1; branch0.1 96 64 3x3; branch1.0 64 160 1x1; branch1.1 64 64 1x7; branch1.2 64 64 7x1;"
        "branch1.3 96 64 3x3",
    )
    shapes |= units("features.5.", "conv 192 192 3x3")
    for at in range(6, 10):
        shapes |= units(
            f"features.{at}.",
            "branch0 96 384 1x1; branch1.0 64 384 1x1; branch1.1 96 64 3x3; branch2.0 64 384 1x1; branch2.1 96 64 3x3;"
            "branch2.2 96 96 3x3; branch3.1 96 384 1x1",
        )
    shapes |= units(
        "features.10.", "branch0 384 384 3x3; branch1.0 192 384 1x1; branch1.1 224 192 3x3; branch1.2 256 224 3x3"
    )
    for at in range(11, 18):
        shapes |= units(
            f"features.{at}.",
            "branch0 384 1024 1x1; branch1.0 192 1024 1x1; branch1.1 224 192 1x7; branch1.2 256 224 7x1;"
            "branch2.0 192 1024 1x1; branch2.1 192 192 7x1; branch2.2 224 192 1x7; branch2.3 224 224 7x1;"
            "branch2.4 256 224 1x7; branch3.1 128 1024 1x1",
        )
    shapes |= units(
        "features.18.",
        "branch0.0 192 1024 1x1; branch0.1 192 192 3x3; branch1.0 256 1024 1x1; branch1.1 256 256 1x7;"
        "branch1.2 320 256 7x1; branch1.3 320 320 3x3",
    )
    for at in range(19, 22):
        shapes |= units(
            f"features.{at}.",
            "branch0 256 1536 1x1; branch1_0 384 1536 1x1; branch1_1a 256 384 1x3; branch1_1b 256 384 3x1;"
            "branch2_0 384 1536 1x1; branch2_1 448 384 3x1; branch2_2 512 448 1x3; branch2_3a 256 512 1x3;"
            "branch2_3b 256 512 3x1; branch3.1 256 1536 1x1",
        )
    return shapes | dense("last_linear", 1000, 1536)


def inception_resnet_v2() -> Shapes:
    shapes = units(
        "", "conv2d_1a 32 3 3x3; conv2d_2a 32 32 3x3; conv2d_2b 64 32 3x3; conv2d_3b 80 64 1x1; conv2d_4a 192 80 3x3"
    )
    shapes |= units(
        "mixed_5b.",
        "branch0 96 192 1x1; branch1.0 48 192 1x1; branch1.1 64 48 5x5; branch2.0 64 192 1x1; branch2.1 96 64 3x3;"
        "branch2.2 96 96 3x3; branch3.1 64 192 1x1",
    )
    for i in range(10):
        shapes |= conv(f"repeat.{i}.conv2d", 320, 128, 1, bias=True) | units(
            f"repeat.{i}.",
            "branch0 32 320 1x1; branch1.0 32 320 1x1; branch1.1 32 32 3x3; branch2.0 32 320 1x1; branch2.1 48 32 3x3;"
            "branch2.2 64 48 3x3",
        )
    shapes |= units(
        "mixed_6a.", "branch0 384 320 3x3; branch1.0 256 320 1x1; branch1.1 256 256 3x3; branch1.2 384 256 3x3"
    )
    for i in range(20):
        shapes |= conv(f"repeat_1.{i}.conv2d", 1088, 384, 1, bias=True) | units(
            f"repeat_1.{i}.",
            "branch0 192 1088 1x1; branch1.0 128 1088 1x1; branch1.1 160 128 1x7; branch1.2 192 160 7x1",
        )
    shapes |= units(
        "mixed_7a.",
        "branch0.0 256 1088 1x1; branch0.1 384 256 3x3; branch1.0 256 1088 1x1; branch1.1 288 256 3x3;"
        "branch2.0 256 1088 1x1; branch2.1 288 256 3x3; branch2.2 320 288 3x3",
    )
    for at in (*(f"repeat_2.{i}" for i in range(9)), "block8"):
        shapes |= conv(f"{at}.conv2d", 2080, 448, 1, bias=True) | units(
            f"{at}.", "branch0 192 2080 1x1; branch1.0 192 2080 1x1; branch1.1 224 192 1x3; branch1.2 256 224 3x1"
        )
    return shapes | units("", "conv2d_7b 1536 2080 1x1") | dense("classif", 1000, 1536)


def resnetv2_50() -> Shapes:
    shapes, channels = conv("stem.conv", 64, 3, 7), 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        n = 64 * 2**stage
        for block in range(depth):
            at = f"stages.{stage}.blocks.{block}"
            shapes |= bn(f"{at}.norm1", channels) | bn(f"{at}.norm2", n) | bn(f"{at}.norm3", n)
            shapes |= (
                conv(f"{at}.conv1", n, channels, 1) | conv(f"{at}.conv2", n, n, 3) | conv(f"{at}.conv3", 4 * n, n, 1)
            )
            shapes |= {} if block else conv(f"{at}.downsample.conv", 4 * n, channels, 1)
            channels = 4 * n
    return shapes | bn("norm", 2048) | conv("head.fc", 1000, 2048, 1, bias=True)


PUBLISHED = {
    "alexnet": (alexnet(), {}),
    "vgg11": (vgg(dict(zip((0, 3, 6, 8, 11, 13, 16, 18), VGG11)), False), {}),
    "vgg11_bn": (vgg(dict(zip((0, 4, 8, 11, 15, 18, 22, 25), VGG11)), True), {}),
    "vgg16": (vgg(dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), VGG16)), False), {}),
    "vgg16_bn": (vgg(dict(zip((0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40), VGG16)), True), {}),
    "resnet18": (resnet((2, 2, 2, 2), False), {}),
    "resnet34": (resnet((3, 4, 6, 3), False), {}),
    "resnet50": (resnet((3, 4, 6, 3), True), {}),
    "resnet101": (resnet((3, 4, 23, 3), True), {}),
    "googlenet_bn": (googlenet(), {"aux": True}),
    "inception_v3": (inception_v3(), {}),
    "inception_v4": (inception_v4(), {}),
    "inception_resnet_v2": (inception_resnet_v2(), {}),
    "resnet50_v2": (resnetv2_50(), {}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_has_exactly_these_tensors(name: str) -> None:
    expected, options = PUBLISHED[name]
    graph = getattr(graphs, name)(**options)
    assert {n.name: graph.types[n.name].per_image for n in (*graph.parameters, *graph.buffers)} == expected
