"""What the loop of a product may read asynchronously: where a mask lets nothing through, the address is one that exists
all the same. ptxas as it comes with Triton 3.7.1 lets masked copies read it on sm_100 (pytorch pull request 187222)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tricnn.check.verify import compiled, verify_model
from tricnn.ir import Graph, GraphBuilder
from tricnn.run import triton_executor
from tricnn.run.triton_executor import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="addresses are seen under Triton's interpreter")


def odd() -> Graph:
    """Convolutions of every kind whose pixels, channels, filters and groups fill no tile, and halos on all sides."""
    b = GraphBuilder("odd")
    x = b.relu(b.batch_norm(b.conv2d(b.input("x", (3, 9, 7)), 20, 3, stride=2, padding=2, bias=False)))
    y = b.relu(b.batch_norm(b.conv2d(x, 24, 3, padding=1, dilation=1, bias=False)))
    y = b.relu(b.batch_norm(b.conv2d(y, 36, 3, padding=(2, 0, 1, 1), stride=2, groups=2, bias=False)))
    y = b.relu(b.batch_norm(b.conv2d(y, 18, 1, bias=False)))
    y = b.max_pool2d(b.conv2d(y, 22, 1, stride=2), 1)
    return b.build(b.linear(b.flatten(y), 5))


class Outside:
    """Counts, in the launches inside :meth:`watched`, what is loaded before a program's last product from an address
    that no tensor has, masked or not."""

    def __init__(self, spans: list[tuple[int, int]]):
        self.spans, self.loads, self.outside = spans, 0, 0

    @contextmanager
    def watched(self, launch: Any) -> Iterator[None]:
        from triton.runtime.interpreter import InterpreterBuilder

        load, dot = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_dot
        since_dot: list[tuple[Any, np.ndarray]] = []

        def seen_load(builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            if since_dot and since_dot[0][0] != builder.grid_idx:
                since_dot.clear()
            since_dot.append((builder.grid_idx, pointers.data.ravel()))
            return load(builder, pointers, mask, *rest, **named)

        def seen_dot(builder: Any, *arguments: Any) -> Any:
            for _, addresses in since_dot:
                self.loads += 1
                known = np.zeros(addresses.shape, bool)
                for first, last in self.spans:
                    known |= (addresses >= first) & (addresses < last)
                self.outside += not known.all()
            since_dot.clear()
            return dot(builder, *arguments)

        with (
            patch.object(InterpreterBuilder, "create_masked_load", seen_load),
            patch.object(InterpreterBuilder, "create_dot", seen_dot),
        ):
            yield


def seen(target: str | None = None) -> Outside:
    model = compiled(odd(), mode="train", batch=3, dtype="fp32", fuse="all", target=target)
    tensors = [x for x in model.executor.bind(3).values() if hasattr(x, "data_ptr")]
    watch = Outside([(x.data_ptr(), x.data_ptr() + x.nbytes) for x in tensors])
    assert all(check.ok for check in verify_model(model, 3, watch=watch.watched))
    return watch


@pytest.mark.parametrize("target", [None, pytest.param("sm_100", marks=pytest.mark.slow)])
def test_no_loop_of_a_product_forms_an_address_that_does_not_exist(target: str | None) -> None:
    found = seen(target)
    assert found.loads > 100 and found.outside == 0


def test_a_template_that_only_masks_its_halo_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    emit, clamped = triton_executor.emit, "return tl.where(exists, index, 0)"
    assert clamped in emit(compiled(odd(), mode="train", batch=3, dtype="fp32").program)
    monkeypatch.setattr(triton_executor, "emit", lambda program: emit(program).replace(clamped, "return index"))
    assert seen().outside > 0
