"""What the published weights of an architecture expect of images, where that is not what everybody's do."""

from collections.abc import Sequence

from tricnn.ir import Graph, GraphBuilder, GraphError
from tricnn.ir.byte_images import takes_bytes

#: ImageNet's, by which images are normalised for nearly all published weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: those whose weights were trained on images scaled to -1..1: torchvision's have ``transform_input=True``
MINUS_ONE_TO_ONE = ("googlenet_bn", "inception_v3")


def images(b: GraphBuilder, shape: Sequence[int], transform_input: bool) -> str:
    """The input ``x``, changed as published weights expect it where ``transform_input`` asks for that.
    Images normalised by ImageNet's mean and deviation are scaled to -1..1 as they come then: ``x * (std / 0.5) + (mean
    - 0.5) / 0.5`` by channel, which is torchvision's option of that name."""
    if not transform_input:
        return b.input("x", shape)
    if len(shape) != 3 or shape[0] != 3:
        raise GraphError(f"{b.name}: transform_input is for images of 3 channels, not of shape {list(shape)}")
    return b.input("x", shape, scale=[s / 0.5 for s in STD], shift=[(m - 0.5) / 0.5 for m in MEAN])


def about_images(graph: Graph) -> str | None:
    """What to say when weights that somebody else trained are loaded into a network that takes images as they are."""
    if graph.name not in MINUS_ONE_TO_ONE or graph.inputs[0].attrs["scale"]:
        return None
    scales = [s for n in graph.consumers[graph.inputs[0].name] if takes_bytes(graph) for s in n.attrs["scale"]]
    if scales and all(abs(255 * scale - 2) < 1e-6 for scale in scales):  # bytes, scaled to -1..1
        return None
    return (
        f"{graph.name}: images are taken as they are; torchvision's published weights expect them scaled to -1..1: for "
        f"images normalised by ImageNet's mean and deviation, declare {graph.name}(transform_input=True)"
    )
