"""A picture through the lecture's filters: edges, sharpening and blur, saved as one picture of four.

    python examples/filter_photograph.py out/filtered.png                # scikit-learn's photograph of a pagoda
    python examples/filter_photograph.py out/filtered.png my_photo.jpg

One convolution applies all three, each output channel with a kernel of its own; red, green and blue are filtered apart,
as three pictures of a batch. notebooks/03-convolution.py explains it.
"""

import sys
from pathlib import Path

import numpy as np

import tricnn

FILTERS = {
    "edges": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
    "sharpened": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "blurred": np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
}


def filtered(image: np.ndarray) -> dict[str, np.ndarray]:
    """The image [H, W, 3] through every filter, by the filter's name; numbers from 0 to 1, what is beyond cut off."""
    height, width, _ = image.shape
    b = tricnn.GraphBuilder("filters")
    x = b.input("x", (1, height, width))
    m = tricnn.compile(b.build(b.conv2d(x, len(FILTERS), 3, padding=1, bias=False, name="conv")), batch=3)
    m.load_state_dict({"conv.weight": np.stack(list(FILTERS.values()))[:, None].astype(np.float32)})
    colours = np.ascontiguousarray(image.transpose(2, 0, 1)[:, None], dtype=np.float32)
    results = m(colours).transpose(1, 2, 3, 0)  # [filter, H, W, colour]
    return {name: result.clip(0, 1) for name, result in zip(FILTERS, results)}


def read(photograph: str | None = None) -> np.ndarray:
    """A picture's file as [H, W, 3], from 0 to 1; without one, scikit-learn's photograph."""
    import matplotlib.image

    if photograph is None:
        from sklearn.datasets import load_sample_image

        return load_sample_image("china.jpg") / 255
    image = matplotlib.image.imread(photograph)[..., :3]
    return image / 255 if image.dtype == np.uint8 else image


def main(out: str, photograph: str | None = None) -> None:
    import matplotlib.image

    image = read(photograph)
    results = [image, *filtered(image).values()]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(out, np.vstack([np.hstack(results[:2]), np.hstack(results[2:])]))
    print(f"{out}: the picture, {', '.join(FILTERS)}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
