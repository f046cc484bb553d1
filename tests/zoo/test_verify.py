"""Every network of ``tricnn list``, at the size ``tricnn verify`` picks: each launch of a step against float64."""

import pytest

from tricnn.graphs import ARCHITECTURES, SMALL
from tricnn.runtime.verify import verify

#: between them most operations, grouped and strided convolutions, pooling of every kind, both orders of batch norm
QUICK = ("lenet5", "alexnet_2012", "inception_block", "cifar_resnet20_preactivation")


def outside(name: str, mode: str, dtype: str) -> list[str]:
    """The values that are outside their tolerance."""
    checks = verify(ARCHITECTURES[name](**SMALL[name]), mode=mode, batch=2, dtype=dtype)
    assert checks
    return [f"{c.kernel} {c.value}: {c.error:.3g} > {c.tolerance:.3g}" for c in checks if not c.ok]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize(("mode", "dtype"), [("train", "fp16"), ("infer", "fp32")])
def test_some_networks_verify(name: str, mode: str, dtype: str) -> None:
    assert outside(name, mode, dtype) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_network_verifies(name: str, mode: str, dtype: str) -> None:
    assert outside(name, mode, dtype) == []
