"""What a user would lose: training that begins with small images and goes on with large ones, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tricnn
from tests.training.fake import CLASSES, blobs
from tests.training.stopping import Failing, StopAfter
from tricnn import Trainer
from tricnn.cli.train_command import _sizes
from tricnn.system.errors import DataError, ShapeError, TricnnError
from tricnn.training import Batches, TrainOptions
from tricnn.training.image_sizes import SizedImages
from tricnn.training.loop import AVERAGED

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")
SIZES = ((1, 4), (2, 6), (3, 8))
OPTIONS = TrainOptions(
    epochs=3,
    batch=16,
    lr=0.05,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0.01,
    sizes=SIZES,
    checkpoint_every=1,
)


def network(pooled=True):
    b = tricnn.GraphBuilder("net")
    x = b.input("x", (1, 6, 6))
    x = b.relu(b.batch_norm(b.conv2d(x, 4, 3, padding=1, bias=False, name="conv"), name="bn"))
    x = b.global_avg_pool(x) if pooled else x
    return b.build(b.linear(x if pooled else b.flatten(x), CLASSES, name="fc"))


def model(**options):
    return tricnn.compile(network(), "train", 16, **{"executor": "numpy", **options})


def trained(made, options=OPTIONS, out=None, resume=False, callbacks=()):
    return Trainer(made, blobs(n=40, tests=8), options, callbacks, out=out, resume=resume).fit()


def test_it_is_what_pytorch_does_with_the_same_images():
    """One network, one optimiser with its momentum, images of three sizes; in float64."""
    made = model(dtype="fp64")
    net = torch.nn.Sequential()
    net.conv, net.bn = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)
    net.relu, net.pool, net.flat = torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    net.fc = torch.nn.Linear(4, CLASSES)
    net = net.double()
    net.load_state_dict({n: torch.tensor(x) for n, x in made.state_dict().items()}, strict=False)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    data, seen = SizedImages(blobs(n=40, tests=8), SIZES), []
    for epoch in range(3):
        for x, labels in data.training(OPTIONS, epoch):
            seen.append(x.shape[2:])
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(torch.tensor(x).double()), torch.tensor(labels))
            loss.backward()
            optimiser.step()
    assert sorted(set(seen)) == [(4, 4), (6, 6), (8, 8)] and len(seen) == 9
    final = {}

    class Last:
        def on_checkpoint(self, path):
            from safetensors.numpy import load_file

            final.update(load_file(path))

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained(made, out=folder, callbacks=[Last()])
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(final[name], value.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_networks_own_size_gives_the_bits_of_none():
    one = [trained(model(), replace(OPTIONS, sizes=sizes)).state_sha256 for sizes in ((), ((1, 6),))]
    assert one[0] == one[1]


@pytest.mark.parametrize(
    ("executor", "after"), [("numpy", 3), ("numpy", 5), pytest.param("triton", 8, marks=pytest.mark.slow)]
)
def test_a_run_resumed_at_any_size_has_the_same_bits(tmp_path, executor, after):
    """After the last step of a size, in the middle of one, and on Triton's kernels, whose layout is another one."""
    options = replace(OPTIONS, optimiser="adamw", ema=0.9)
    whole = trained(model(executor=executor), options, tmp_path / "whole")
    with pytest.raises(Failing):
        trained(model(executor=executor), options, tmp_path / "run", callbacks=[StopAfter(after)])
    resumed = trained(model(executor=executor), options, tmp_path / "run", resume=True)
    assert resumed.state_sha256 == whole.state_sha256
    assert (tmp_path / "run" / AVERAGED).read_bytes() == (tmp_path / "whole" / AVERAGED).read_bytes()
    with pytest.raises(TricnnError, match="sizes"):
        trained(model(executor=executor), replace(options, sizes=()), tmp_path / "run", resume=True)


def test_a_resized_model_is_the_same_network_with_what_is_frozen():
    made = model(freeze=["bn", "conv"])
    x, labels = np.random.default_rng(0).random((3, 1, 9, 7), dtype=np.float32), np.array([0, 1, 2])
    other = made.resized(9, 7)
    assert other.frozen == made.frozen and other.plan.frozen == ("bn", "conv")
    assert all(np.array_equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values()))
    assert set(other.loss_and_grads(x, labels)[1]) == {"fc.weight", "fc.bias"}


def test_what_has_no_other_size_is_refused_by_name():
    dense = tricnn.compile(network(pooled=False), "train", 16, executor="numpy")
    with pytest.raises(ShapeError, match="layer fc"):
        trained(dense)
    with pytest.raises(DataError, match="come as they are"):
        SizedImages(Batches([], [], 2, batches=1, name="loader"), SIZES)
    for sizes in (((2, 8),), ((1, 8), (1, 9)), ((1, 0),)):
        with pytest.raises(TricnnError, match="from epoch 1 on"):
            TrainOptions(sizes=sizes)


def test_sizes_as_they_are_written():
    assert _sizes("128, 160:10,224:20") == ((1, 128), (10, 160), (20, 224))
    with pytest.raises(Exception, match="such as 128"):
        _sizes("128:2")
