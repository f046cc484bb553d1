"""What is done to one picture before a network sees it, at random for training and always the same for a test.

Pictures are Pillow's images; what is random comes from a generator that the caller made for this picture.

Pillow only: torchvision is not needed, and its transforms are taken where somebody has them
(:class:`tricnn.training.pictures.PictureFolder`, ``transform``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..system.errors import DataError

Image = Any  # PIL.Image.Image: Pillow is imported only where a picture is read
CROPS = ("resized", "padded", "none")
LEVELS = 31  # strengths of TrivialAugment's operations: 0 to 30
ATTEMPTS = 10  # at a random rectangle that lies within the picture


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied.

    ``crop``   ``resized``: a random part of ``scale`` of the area, with sides of ``ratio``, resized to the input
               (Szegedy et al. 2015, section 6); ``padded``: resized, padded with ``padding`` black pixels on each side,
               and cut at random (He et al. 2016, section 4.2); ``none``: as in a test.
    ``flip``   the probability of left and right exchanged.
    ``trivial`` one operation of TrivialAugment at a random strength (Müller and Hutter 2021).
    ``erasing`` the probability that a rectangle of 2 to 33 % of the area becomes the mean colour (Zhong et al. 2020).

    Raises DataError for values that make no sense.
    """

    crop: str = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    flip: float = 0.5
    trivial: bool = False
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise DataError(f"crop {self.crop!r} is unknown; known are {', '.join(CROPS)}")
        for name in ("flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} {getattr(self, name)} is not a probability, 0 to 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise DataError(
                f"crop of scale {self.scale} and ratio {self.ratio}: each is a range above 0, of areas to 1"
            )
        if self.padding < 0:
            raise DataError(f"padding {self.padding} is not accepted; it is at least 0")

    def __call__(self, image: Image, size: tuple[int, int], rng: np.random.Generator) -> Image:
        """The picture as one of ``size`` (height, width), varied; erasing is for :func:`erased`, on its pixels."""
        if self.crop == "resized":
            left, top, width, height = random_part(image.width, image.height, self.scale, self.ratio, rng)
            image = _resized(image.crop((left, top, left + width, top + height)), size)
        elif self.crop == "padded":
            image = padded_crop(_resized(image, size), self.padding, rng)
        else:
            image = centred(image, size)
        if rng.random() < self.flip:
            from PIL.Image import Transpose

            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return trivially_augmented(image, rng) if self.trivial else image


def random_part(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random rectangle within ``width`` x ``height``.
    Its area is uniform in ``scale`` of the whole, the logarithm of its sides' ratio uniform in that of ``ratio``. Where
    ten attempts give none that lies within, it is the largest central one whose ratio is allowed."""
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
    return (width - w) // 2, (height - h) // 2, w, h


def padded_crop(image: Image, padding: int, rng: np.random.Generator) -> Image:
    """A part of the picture's own size, at random, of the picture with ``padding`` black pixels on each side."""
    left, top = (int(v) - padding for v in rng.integers(0, 2 * padding + 1, 2))
    return image.crop((left, top, left + image.width, top + image.height))  # what is outside is black


def centred(image: Image, size: tuple[int, int], share: float = 1.0) -> Image:
    """The central ``size`` (height, width) of the picture, resized so that this is ``share`` of its shorter side."""
    height, width = size
    factor = max(width / image.width, height / image.height) / share
    w, h = max(width, round(image.width * factor)), max(height, round(image.height * factor))
    left, top = (w - width) // 2, (h - height) // 2
    return _resized(image, (h, w)).crop((left, top, left + width, top + height))


def erased(pixels: NDArray[np.uint8], colour: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Put ``colour [C]`` on a random rectangle of ``pixels [H, W, C]``, 2 to 33 % of the area, sides 0.3 to 3.3."""
    height, width, _ = pixels.shape
    left, top, w, h = random_part(width, height, (0.02, 0.33), (0.3, 3.3), rng)
    pixels[top : top + h, left : left + w] = colour


def _resized(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return image if image.size == size[::-1] else image.resize(size[::-1], Resampling.BILINEAR)


# --- TrivialAugment -------------------------------------------------------------------------------------------------


def trivially_augmented(image: Image, rng: np.random.Generator) -> Image:
    """The picture after one of 14 operations, each as likely, at one of 31 strengths, each as likely.
    Müller and Hutter 2021, algorithm 1, with the wide ranges of its table 2."""
    name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
    level, negative = int(rng.integers(LEVELS)), bool(rng.integers(2))
    return operated(image, name, level / (LEVELS - 1), negative)


def operated(image: Image, name: str, strength: float, negative: bool) -> Image:
    """The picture after operation ``name`` at ``strength`` of 0 to 1.
    ``negative`` turns the direction of those that have one."""
    from PIL import ImageEnhance, ImageOps

    sign = -1.0 if negative else 1.0
    if name in ENHANCED:
        return getattr(ImageEnhance, name)(image).enhance(1.0 + sign * 0.99 * strength)
    if name in MOVED:
        a, b = MOVED[name]
        if name.startswith("Shear"):
            return _affine(image, (1.0, a * sign * 0.99 * strength, 0.0, b * sign * 0.99 * strength, 1.0, 0.0))
        return _affine(image, (1.0, 0.0, a * sign * 32 * strength, 0.0, 1.0, b * sign * 32 * strength))
    others: dict[str, Callable[[], Image]] = {
        "Identity": lambda: image,
        "Rotate": lambda: image.rotate(sign * 135.0 * strength),
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(6 * strength)),
        "Solarize": lambda: ImageOps.solarize(image, round(255 * (1.0 - strength)) + (strength == 0)),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    return others[name]()


ENHANCED = ("Brightness", "Color", "Contrast", "Sharpness")
MOVED = {"ShearX": (1, 0), "ShearY": (0, 1), "TranslateX": (1, 0), "TranslateY": (0, 1)}
OPERATIONS = ("Identity", "Rotate", "Posterize", "Solarize", "AutoContrast", "Equalize", *MOVED, *ENHANCED)


def _affine(image: Image, coefficients: tuple[float, ...]) -> Image:
    from PIL.Image import Transform

    return image.transform(image.size, Transform.AFFINE, coefficients)
