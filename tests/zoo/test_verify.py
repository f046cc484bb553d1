"""Every network of ``tricnn list``, at the size ``tricnn verify`` picks: each launch of a step against float64."""

import pytest

from tests.run.networks import network
from tricnn.check.races import RacesFound
from tricnn.check.verify import compiled, verify, verify_model
from tricnn.cli.verify_command import BATCH_INTERPRETED
from tricnn.emit.emit import emit
from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.lower.program import Program
from tricnn.run import triton_executor

#: between them most operations, grouped and strided convolutions, pooling of every kind. Steps of many layers are slow
#: tests: what they add (slices read in place, norm before convolution) tests/compiler and tests/run have in few layers
QUICK = [
    ("alexnet_2012", "train", "fp16"),
    ("inception_block", "train", "fp16"),
    ("lenet5", "infer", "fp32"),
    ("cifar_resnet20_preactivation", "infer", "fp32"),
]


def outside(name: str, mode: str, dtype: str) -> list[str]:
    """The values that are outside their tolerance, and the programs that depend on each other."""
    model = compiled(ARCHITECTURES[name](**SMALL[name]), mode=mode, batch=BATCH_INTERPRETED, dtype=dtype)
    races = RacesFound(model, BATCH_INTERPRETED)
    checks = verify_model(model, BATCH_INTERPRETED, watch=races)
    assert checks
    return [*map(str, races.races)] + [
        f"{c.kernel} {c.value}: {c.error:.3g} > {c.tolerance:.3g}" for c in checks if not c.ok
    ]


@pytest.mark.parametrize(("name", "mode", "dtype"), QUICK)
def test_some_networks_verify(name: str, mode: str, dtype: str) -> None:
    assert outside(name, mode, dtype) == []


#: a line of a template, and the same with one mistake; verifying the network named must show it
MISTAKES = [
    ("conv2d_dgrad", "(p >= 0) & (p < P)", "(p >= 0)", "inception_block"),
    ("conv2d_wgrad", "pixel_mask = pixel < end", "pixel_mask = pixel < end - 1", "inception_block"),
    ("pool", "chosen == r * S + s, gradient", "chosen >= 0, gradient", "alexnet_2012"),
    (
        "stats",
        "x = tl.where(mask, tile.to(tl.float32), 0.0)",
        "x = tile.to(tl.float32) + tl.where(mask, 0.0, 1.0)",
        "residual",
    ),
    ("reduce", "begin = tl.program_id(1) * chunk", "begin = tl.program_id(1) * chunk + 1", "residual"),
]


@pytest.mark.parametrize(("template", "right", "wrong", "name"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_in_a_template_shows(
    template: str, right: str, wrong: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that passes whatever the kernels do would be worth nothing."""
    emitted: list[str] = []

    def mistaken(program: Program) -> str:
        emitted.append(emit(program))
        return emitted[-1].replace(right, wrong)

    monkeypatch.setattr(triton_executor, "emit", mistaken)
    graph = network("residual") if name == "residual" else ARCHITECTURES[name](**SMALL[name])
    checks = verify(graph, mode="train", batch=BATCH_INTERPRETED, dtype="fp16")
    assert right in emitted[0], f"the template {template} no longer has this line"
    assert [c for c in checks if not c.ok]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_network_verifies(name: str, mode: str, dtype: str) -> None:
    assert outside(name, mode, dtype) == []
