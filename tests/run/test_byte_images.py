"""Networks on images of bytes, which they normalise as they load them, as PyTorch's Normalize does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tricnn
from tricnn.compiler.pipeline import planned
from tricnn.graphs.published import about_images
from tricnn.ir import DataError, Graph, GraphBuilder, GraphError, ShapeError, from_text, of_bytes, to_text

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BYTES = np.random.default_rng(0).integers(0, 256, (3, 3, 9, 8), dtype=np.uint8)
LABELS = np.array([0, 2, 1])


def declared(**options: tuple[float, ...]) -> Graph:
    b = GraphBuilder("stem")
    x = b.relu(b.conv2d(b.input("x", (3, 9, 8), **options), 4, 3, stride=2, padding=1, name="c"))
    return b.build(b.linear(b.flatten(x), 3, name="fc"))


class Normalised(nn.Module):
    """What torchvision's ``ToTensor`` and ``Normalize`` do, then the network of :func:`declared`."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Linear(4 * 5 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
        return self.fc(self.c((x.double() / 255 - mean) / std).relu().flatten(1))


def theirs() -> tuple[Normalised, np.ndarray, float, dict[str, np.ndarray]]:
    """PyTorch's module, and its output, loss and gradients in float64."""
    torch.manual_seed(0)
    module = Normalised().double()
    output = module(torch.from_numpy(BYTES))
    loss = F.cross_entropy(output, torch.from_numpy(LABELS))
    loss.backward()
    return module, output.detach().numpy(), loss.item(), {n: p.grad.numpy() for n, p in module.named_parameters()}


@pytest.mark.parametrize(
    "executor, dtype, close",
    [("numpy", "fp64", 1e-12), ("numpy", "fp32", 2e-6), ("eager", "fp64", 1e-12), ("eager", "fp32", 2e-6),
     ("eager", "bf16", 0.03), ("triton", "fp32", 2e-6), ("triton", "bf16", 0.03)],
)  # fmt: skip
def test_bytes_are_normalised_as_pytorch_does_and_padding_stays_zero(executor: str, dtype: str, close: float) -> None:
    module, output, loss, gradients = theirs()
    graph = of_bytes(declared(), MEAN, STD)
    infer = tricnn.compile(graph, "infer", 3, dtype, executor)
    infer.load_state_dict(module.state_dict())
    np.testing.assert_allclose(infer(BYTES), output, atol=close, rtol=close)
    np.testing.assert_allclose(infer(torch.from_numpy(BYTES)).numpy(), output, atol=close, rtol=close)
    train = tricnn.compile(graph, "train", 3, dtype, executor)
    train.load_state_dict(module.state_dict())
    found, grads = train.loss_and_grads(BYTES, LABELS)
    assert abs(found - loss) < close * 4
    assert grads.keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(grads[name], gradient, atol=close * 4, rtol=close)


def test_an_image_normalised_before_is_the_same_to_rounding_and_other_statistics_are_not() -> None:
    """The check above can fail: one channel's deviation, taken for another's, is seen."""
    plain, mine = (tricnn.compile(g, dtype="fp64", executor="numpy") for g in (declared(), of_bytes(declared(), MEAN)))
    mean = np.array(MEAN)[:, None, None]
    np.testing.assert_allclose(mine(BYTES), plain(BYTES / 255 - mean), rtol=1e-12)
    turned = tricnn.compile(of_bytes(declared(), MEAN[::-1]), dtype="fp64", executor="numpy")
    assert np.abs(turned(BYTES) - mine(BYTES)).max() > 1e-3


def test_an_input_that_is_rescaled_is_so_after_its_normalisation() -> None:
    graph = declared(scale=(0.5, 2.0, 3.0), shift=(1.0, 0.0, -1.0))
    before, mine = (tricnn.compile(g, dtype="fp64", executor="numpy") for g in (graph, of_bytes(graph, MEAN, STD)))
    normalised = (BYTES / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(mine(BYTES), before(normalised), rtol=1e-12)


def test_it_is_one_line_of_the_text_and_comes_back() -> None:
    graph = of_bytes(declared(), 0.5, 0.25)
    text = to_text(graph)
    assert 'x = input(shape=[N, 3, 9, 8], dtype="uint8")' in text and "from_bytes(x, scale=[" in text
    assert from_text(text) == graph and graph.parameters == declared().parameters


def test_what_is_not_bytes_is_refused_and_so_are_numbers_that_make_no_sense() -> None:
    model = tricnn.compile(of_bytes(declared(), MEAN, STD), executor="numpy")
    said = r"^input x: expected bytes \(uint8, 0 to 255\), which the network normalises itself, got float32$"
    with pytest.raises(DataError, match=said):
        model(BYTES.astype(np.float32))
    with pytest.raises(DataError, match="got int64"):
        model(torch.from_numpy(BYTES).long())
    for wrong in ({"std": 0.0}, {"mean": (1.0, 2.0)}, {"mean": float("nan")}, {"std": "wide"}):
        with pytest.raises(GraphError, match=f"graph stem: {next(iter(wrong))}=.* for each of 3 channels"):
            of_bytes(declared(), **wrong)
    with pytest.raises(GraphError, match=r"this one's input x is uint8\[N, 3, 9, 8\]"):
        of_bytes(of_bytes(declared()))
    b = GraphBuilder("g")
    x = b.input("x", (3, 9, 8), "uint8")
    with pytest.raises(ShapeError, match=r"layer c \(conv2d\): x must hold floating-point numbers, it is uint8"):
        b.conv2d(x, 4, 3, name="c")
    with pytest.raises(ShapeError, match="scale has 1 numbers, which is not one for each channel"):
        b.add("from_bytes", x, scale=(1.0,), shift=(0.0,))
    with pytest.raises(GraphError, match=r"from_bytes cannot be differentiated: bytes are whole numbers"):
        planned(of_bytes(declared()), "open", wants=("x",))


def test_a_module_of_pytorchs_world_takes_bytes_and_nothing_else() -> None:
    module, output, _, gradients = theirs()
    ours = tricnn.Module(of_bytes(declared(), MEAN, STD), dtype="fp32", executor="numpy")
    ours.load_state_dict(module.state_dict())
    found = ours(torch.from_numpy(BYTES))
    np.testing.assert_allclose(found.detach().numpy(), output, atol=2e-6, rtol=2e-6)
    F.cross_entropy(found, torch.from_numpy(LABELS)).backward()
    for name, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), gradients[name], atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match=r"input x: expected bytes .* got torch.float32"):
        ours(torch.from_numpy(BYTES).float())


def test_which_bytes_published_weights_expect_is_seen_in_the_normalisation() -> None:
    """GoogLeNet's are of images scaled to -1..1, by whichever way bytes become those."""
    plain, rescaled = (tricnn.graphs.googlenet_bn(width=1 / 16, transform_input=b) for b in (False, True))
    for graph in (of_bytes(plain, 0.5, 0.5), of_bytes(rescaled, MEAN, STD)):
        assert about_images(graph) is None
    for graph in (of_bytes(plain, MEAN, STD), of_bytes(rescaled, 0.5, 0.5)):
        assert "expect them scaled to -1..1" in str(about_images(graph))
