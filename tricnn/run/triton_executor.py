"""The Triton executor: runs the emitted file, on a CUDA device or on the CPU under Triton's interpreter."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import wraps
from math import prod
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..build.emitted_module import load_module, make_keys
from ..compiler.plan import Plan
from ..emit.emit import emit
from ..ir.table import Environment, Source
from ..lower.program import Descriptor, Program
from ..system.errors import TargetError
from .captured_step import capture, worth_capturing
from .channels_last import to_logical, to_storage
from .interpreter import run_nodes
from .launches import Watcher, between_launches, counting_programs, finished_after, summed_after
from .poison import poisoned
from .quick_interpreter import quick_interpreter
from .rounded_weights import RoundedWeights


def interpreting() -> bool:
    """Whether TRITON_INTERPRET says that Triton's interpreter runs kernels.
    Triton goes by what it said when triton was imported (see :func:`pick_device`)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def pick_device() -> str:
    """The device kernels run on: ``cuda`` or, under the interpreter, ``cpu``.
    Raises TargetError where neither is there, or TRITON_INTERPRET was changed too late."""
    import torch

    device = "cpu" if interpreting() else "cuda" if torch.cuda.is_available() else None
    if device is not None:
        import triton.language as tl
        from triton.runtime import JITFunction

        if isinstance(tl.sum, JITFunction) == interpreting():  # its own functions are made when it is imported
            value = os.environ.get("TRITON_INTERPRET")
            now = "is no longer set" if value is None else f"was set to {value[:20]!r}"
            raise TargetError(f"TRITON_INTERPRET {now} after triton was imported: set it before, or start anew")
        return device
    raise TargetError(
        "executor triton needs a CUDA device, or Triton's interpreter (set TRITON_INTERPRET=1 before starting); "
        "executor numpy runs anywhere"
    )


def launching() -> AbstractContextManager[None]:
    """The context in which kernels are launched: under Triton's interpreter, which is made quick inside."""
    return quick_interpreter() if interpreting() else nullcontext()


def described(descriptors: Iterable[Descriptor], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What kernels take by name for these descriptors, of these tensors."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    def seen(d: Descriptor) -> Any:
        tensor = tensors[d.buffer].view(-1, *d.shape)
        if d.window is not None:
            return tensor.unfold(-1, *d.window)
        tensor = tensor.movedim(0, -2) if d.images_last else tensor
        return tensor if d.channels is None else tensor.narrow(-1, *d.channels)

    return {d.name: TensorDescriptor.from_tensor(seen(d), list(d.box)) for d in descriptors}


#: Triton's interpreter keeps where it is in variables of the whole process, so that one launch at a time may run
INTERPRETER = threading.RLock()


P = ParamSpec("P")
R = TypeVar("R")


def ordinary_tensors(make: Callable[P, R]) -> Callable[P, R]:
    """A function whose tensors outlive its call: ordinary ones, even if the caller is in torch.inference_mode.
    What is made in that mode cannot be written outside it."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        with torch.inference_mode(False):
            return make(*args, **kwargs)

    return made


class TritonExecutor:
    """Parameters in storage layout on the device; ``allocate`` and ``step`` of the emitted file."""

    name = "triton"
    #: every launch finds what it is the first to write poisoned: for tests, which shall see what a kernel forgets
    poisons = False

    @ordinary_tensors
    def __init__(self, plan: Plan, program: Program, target: str):
        import torch

        self.target = target

        self.device = pick_device()
        self.plan, self.program = plan, program
        self.source = emit(program)
        self.module = load_module(self.source)
        if self.device == "cuda":
            make_keys(self.module)
        self.lock = threading.RLock() if self.device == "cuda" else INTERPRETER
        self.torch = torch
        self.dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "u8": torch.uint8,
                       "i64": torch.int64}  # fmt: skip
        self.persistent: dict[str, Any] = self.module.parameters(self.device)
        self.host: dict[str, Any] = {}  # parameters that no kernel reads: they were folded into others
        self._bound: dict[int, dict[str, Any]] = {}
        self._captured: dict[int, Callable[[], None] | None] = {}
        self._stream: Any = None  # where the last step ran
        self.cuda = torch.cuda if self.device == "cuda" and torch.version.cuda else None
        for node in (*plan.graph.parameters, *plan.graph.buffers):
            place, count = plan.place(node.name), prod(plan.type(node.name).per_image)
            if place.buffer in self.persistent:
                self.persistent[node.name] = self.persistent[place.buffer][place.offset : place.offset + count]
            else:
                self.host[node.name] = torch.empty(count, dtype=torch.float32)
        self.rounded = self._rounded_weights()

    def _rounded_weights(self) -> RoundedWeights:
        """The weights, by parameter, and the copies of them that products read.
        For training both are on the device; for inference the device holds only the copies, and the host the weights
        that were loaded."""
        weights, copies = {}, {}
        for node in (*self.plan.graph.parameters, *self.plan.prepared):
            if node.name not in self.persistent:
                continue
            place, stored = self.plan.place(node.name), self.persistent[node.name]
            if place.buffer in self.program.rounded:
                whole = self.persistent[self.program.rounded[place.buffer]]
                weights[node.name], copies[node.name] = stored, whole[place.offset : place.offset + len(stored)]
            elif node.row.source is Source.PARAMETER and stored.dtype != self.torch.float32:
                weights[node.name] = self.torch.empty(len(stored), dtype=self.torch.float32)
                copies[node.name] = stored
        return RoundedWeights(weights, copies)

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        for name, x in state.items():
            self.live(name).copy_(self._flat(name, x))
        wide = {name: np.asarray(x, dtype=np.float32).astype(np.float64) for name, x in state.items()}
        values = run_nodes(self.plan.prepared, wide, Environment())
        for node in self.plan.prepared:
            if node.name in self.persistent:
                self.persistent[node.name].copy_(self._flat(node.name, values[node.name]))
        self._round()

    def _round(self) -> None:
        """Bring the weights that products read up to date with those that were loaded or trained."""
        if not self.rounded.current:
            self.rounded.write()

    def state(self, name: str) -> np.ndarray:
        return self.to_logical(name, self.live(name)).copy()

    def live(self, name: str) -> Any:
        """Where a parameter or running statistic is, flat, as it was loaded or trained."""
        if name in self.host:
            return self.host[name]
        return self.rounded.weights.get(name, self.persistent[name])

    def to_logical(self, name: str, x: Any) -> np.ndarray:
        """Storage -> a NumPy array in PyTorch's layout."""
        shape = tuple(self.plan.type(name).per_image)
        host = x.detach().float().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
        return np.asarray(to_logical(host, shape, self.program.order.get(name)), order="C")

    def to_storage(self, name: str, x: Any) -> Any:
        """A NumPy array in PyTorch's layout -> flat storage on the device."""
        return self._flat(name, x).to(self.device)

    def _flat(self, name: str, x: Any) -> Any:
        """A NumPy array in PyTorch's layout as flat storage on the host."""
        stored = to_storage(np.asarray(x, dtype=np.float32), self.program.order.get(name))
        return self.torch.as_tensor(np.ascontiguousarray(stored).reshape(-1).copy())

    @ordinary_tensors
    def bind(self, batch: int) -> dict[str, Any]:
        """Every tensor of the step by name, for a batch size; made once per size."""
        if batch in self._bound:
            return self._bound[batch]
        tensors: dict[str, Any] = self.module.allocate(batch, self.device, self.persistent)
        if len(self._bound) >= 4:
            oldest = next(iter(self._bound))
            del self._bound[oldest]
            self._captured.pop(oldest, None)
        self._bound[batch] = tensors
        return tensors

    def put(self, tensors: Mapping[str, Any], name: str, x: Any) -> None:
        """An input, logical and NumPy or torch, into its device buffer."""
        source = x if hasattr(x, "detach") else self.torch.as_tensor(np.asarray(x))
        if source.ndim == 0:
            tensors[name].copy_(source)
            return
        self._images(tensors, name, len(source)).copy_(to_storage(source))

    def _images(self, tensors: Mapping[str, Any], name: str, batch: int) -> Any:
        """An input's memory in storage layout: of a packed one the part that its images take."""
        shape, packing = self.plan.type(name).at(batch), self.program.buffers[name].packing
        if packing is None:
            return to_storage(to_logical(tensors[name], shape))
        _, c, h, w = shape
        rows = tensors[name].view(batch, packing.rows, packing.pitch)
        return rows[:, :h, packing.left : packing.left + w * c].unflatten(-1, (w, c))

    def run(
        self, inputs: Mapping[str, Any], batch: int, seed: int, step: int, watch: Watcher | None = None
    ) -> dict[str, Any]:
        """Outputs and gradients of one step by the name of their value, as device tensors in logical shape.

        ``watch`` is told, between launches, what they have finished, gradients as they lie.
        """
        self._check_size(batch)
        self._after_other_streams()
        tensors = self.bind(batch)
        for node in self.plan.graph.inputs:
            self.put(tensors, node.name, inputs[node.name])
        self._round()
        self.launch(tensors, batch, seed, step, watch)
        if self.program.rounded:
            self.rounded.forget()  # whatever becomes of the parameters now, in kernels that PyTorch does not see
        return {value: self.fetch(tensors, value, batch) for value in self.plan.graph.results}

    def _after_other_streams(self) -> None:
        """Wait for the last step's work, if another stream (another thread's) does it: steps share their memory."""
        if self.device == "cuda":
            stream = self.torch.cuda.current_stream()
            if self._stream is not None and stream != self._stream:
                stream.wait_stream(self._stream)
            self._stream = stream

    def stored(self, tensors: Mapping[str, Any], value: str) -> Any:
        """A value that lies in one piece, flat, in storage order."""
        place, type_ = self.plan.place(value), self.plan.type(value)
        if type_.batched:
            return tensors[place.buffer]
        return tensors[place.buffer][place.offset : place.offset + prod(type_.per_image)]

    def launch(self, tensors: dict[str, Any], batch: int, seed: int, step: int, watch: Watcher | None = None) -> None:
        """Launch the step's kernels, one by one or as one CUDA graph.
        They are one graph where they are short and nobody watches (TRICNN_CAPTURE=0: never)."""
        if watch is None and batch not in self._captured:
            self._captured[batch] = self._capture(tensors, batch) if self.captures(batch) else None
        replay = self._captured.get(batch) if watch is None else None
        if replay is not None:
            replay()
            return
        with ExitStack() as stack:
            stack.enter_context(launching())
            stack.enter_context(counting_programs(tensors))
            if self.poisons:
                stack.enter_context(poisoned(self.module, self.program, tensors))
            if watch is not None:
                stack.enter_context(self._watched(watch, tensors))
            self.module.step(tensors, batch, seed, step)

    def _watched(self, watch: Watcher, tensors: dict[str, Any]) -> AbstractContextManager[None]:
        """A context in which ``watch`` is told each gradient, and sum of the batch, once a launch has finished it."""
        launches = self.program.launches
        written = [launch.writes for launch in launches]
        finished = finished_after(self.plan, written, self.plan.graph.gradients)
        summed = summed_after(self.plan, [launch.kernel for launch in launches], written)

        def tell(launch: int) -> None:
            for value in summed[launch]:
                place, shape = self.plan.place(value), self.plan.type(value).per_image
                buffer = tensors[place.buffer]
                start = buffer.storage_offset() + place.offset  # it is itself a part of the arena
                watch.sums(value, buffer.as_strided(shape, (place.pitch, 1), start))
            for parameter, value in finished[launch]:
                watch.gradient(parameter, self.stored(tensors, value))

        return between_launches(self.module, self.program, after=tell)

    def _capture(self, tensors: dict[str, Any], batch: int) -> Callable[[], None] | None:
        buffers = {self.plan.place(name).buffer for name, _ in self.plan.graph.updates}
        changed = [self.persistent[name] for name in sorted(buffers)]
        try:
            return capture(lambda: self.module.step(tensors, batch, 0, 0), self.cuda, changed)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"the step is launched kernel by kernel, for it could not be captured: {reason}", stacklevel=2
            )
            return None

    def captures(self, batch: int) -> bool:
        wanted = self.cuda is not None and os.environ.get("TRICNN_CAPTURE", "1") != "0"
        return wanted and worth_capturing(self.program, batch)

    def _check_size(self, batch: int) -> None:
        """Raise TargetError for a batch whose pixels or elements kernels cannot count.
        Pixels are counted in 32 bits, elements too unless the step was compiled for more of them."""
        largest = max(b.size.at(batch) for b in self.program.buffers.values())
        pixels = batch * max(
            (t.pixels for t in self.plan.graph.types.values() if t.batched and len(t.shape) == 4), default=1
        )
        if largest >= 2**31 and not self.program.wide:
            raise TargetError(f"batch {batch} makes a tensor of {largest} elements (2**31 or more): compile for it")
        if pixels >= 2**31:
            raise TargetError(f"batch {batch} makes an image of {pixels} pixels; kernels count at most 2**31 - 1")

    def fetch(self, tensors: Mapping[str, Any], value: str, batch: int) -> Any:
        """A value in its logical shape (a view of its memory where that is possible)."""
        type_, place = self.plan.type(value), self.plan.place(value)
        if self.program.buffers[place.buffer].packing is not None:
            return self._images(tensors, place.buffer, batch).permute(0, 3, 1, 2)
        if value in self.plan.within and not type_.is_weight:
            whole = to_logical(tensors[place.buffer], self.plan.type(place.buffer).at(batch))
            return self.plan.sliced(value, whole)
        return to_logical(self.stored(tensors, value), type_.at(batch), self.program.order.get(value))
