"""``tricnn.compile``: from a graph to something that runs."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from ..build.compile_ahead import settled_for_launch
from ..compiler.cost import Cost
from ..compiler.modes import MODES
from ..compiler.pipeline import planned
from ..compiler.plan import Plan
from ..emit.emit import emit
from ..graphs.published import about_images
from ..ir.graph import Graph
from ..ir.init import Init, draw
from ..ir.objective import Loss
from ..ir.patterns import patterns_of
from ..ir.table import Source
from ..ir.wording import plural
from ..lower.lower import lower
from ..lower.program import Program
from ..machine.dtypes import DTYPES, dtype_named
from ..system.cores import blas_threads
from ..system.errors import CheckpointError, GraphError, ShapeError, TargetError, TricnnError, shown
from .dump import Dump
from .eager_executor import EagerExecutor
from .inputs import as_given, check_images, is_tensor
from .launches import Watcher
from .loss_targets import read_by_loss
from .numpy_executor import NumpyExecutor
from .rounded_weights import RoundedWeights
from .triton_executor import TritonExecutor, interpreting, pick_device
from .weight_names import COUNTERS, NotLoaded, fitted, unwrapped
from .weights import PYTORCH, as_array, load_weights, save_weights, without_absent_heads

ALL_DTYPES = (*DTYPES, "fp64")
EXECUTORS = ("auto", "triton", "numpy", "eager")


def gpu_present() -> bool:
    """Is there a CUDA or ROCm device? Cheap where there is no driver: torch is imported only if there is one."""
    if not any(Path(p).exists() for p in ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")):
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_target() -> str:
    """The target of the GPU at hand, ``sm_90`` where there is none."""
    if not gpu_present():
        return "sm_90"
    import torch

    if torch.version.hip:
        return str(torch.cuda.get_device_properties(0).gcnArchName.split(":")[0])
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def compile(
    graph: Graph,
    mode: str = "infer",
    batch: int = 1,
    dtype: Any = "fp32",
    executor: str = "auto",
    target: str | None = None,
    fuse: bool | str = True,
    *,
    seed: int = 0,
    loss: Loss | str = "cross_entropy",
    bucket_bytes: int | None = None,
    freeze: Sequence[str] = (),
) -> Model:
    """Compile a network.

    mode      ``infer``: ``m(x)`` gives logits. ``train``: ``m.loss_and_grads(x, labels)``.
    batch     the batch size tiles are chosen for; any other works without a new compilation.
    dtype     ``fp32`` (IEEE products), ``tf32``, ``fp16``, ``bf16``; ``fp64`` for the NumPy and eager executors; or
              what PyTorch and NumPy call them. Sums are fp32 (fp64 for fp64); training keeps weights in fp32.
    executor  ``triton`` (CUDA, or the CPU under TRITON_INTERPRET=1), ``numpy``, ``eager`` (ATen); ``auto``: Triton
              where there is a GPU, else NumPy.
    target    ``sm_90``, ``gfx942``, ..., or ``H100``, whose tiles to choose; the device at hand unless said.
    fuse      ``"auto"`` (or True): every rule of fusion where it is predicted to be faster; ``"all"``: wherever it is
              legal; ``"epilogue"``: pointwise chains only; ``"none"`` (or False): one kernel per layer; or rules by
              name (tricnn/compiler/policies.py).
    loss      of training: ``cross_entropy``, ``binary_cross_entropy`` (of logits), ``mean_squared_error``, or a
              :class:`tricnn.Loss`, which has label smoothing, class weights, an ignored label, and mixed labels. In
              fp16 gradients are computed of the loss times ``m.loss_scale``.
    seed      draws the initial parameters and, with the step, dropout's masks.
    freeze    what training leaves as it is, by the names of layers and parameters: ``["conv1", "layer1", "*.bias"]``.
              No gradient of it is computed, and frozen batch norm normalises by its running statistics.
    bucket_bytes  finish gradients by so many bytes rather than at the end of the step, for who sends them to other
              processes meanwhile (training/gradient_exchange.py).

    With ``TRICNN_DUMP=folder`` in the environment, what every pass made is written there, numbered, in a folder for
    each compilation.

    Raises TargetError for an unknown mode, dtype, executor, target or policy, and GraphError for a graph that cannot be
    trained or has nothing of a name that is to be frozen.
    """
    if not isinstance(graph, Graph):
        raise GraphError(f"compile takes a tricnn.Graph, such as tricnn.graphs.lenet(), not {type(graph).__name__}")
    dtype, loss = dtype_named(dtype), Loss.named(loss)
    loss = loss.of_step(mode, dtype)
    for what, value, known in (("mode", mode, MODES), ("dtype", dtype, ALL_DTYPES), ("executor", executor, EXECUTORS)):
        if value not in known:
            near = difflib.get_close_matches(str(value), known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TargetError(f"{what} {shown(value)} is unknown; {hint}accepted: {', '.join(known)}")
    if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
        raise TargetError(f"batch {shown(batch)} is not accepted; a batch is an integer of at least 1")
    batch = int(batch)
    if target is not None:
        from ..machine.targets import parse_target

        target = parse_target(target).name
    if executor == "auto":
        executor = "triton" if gpu_present() and dtype != "fp64" else "numpy"
    dump = Dump.asked_for(graph, mode)
    cost = Cost(batch, dtype, target or device_target())
    frozen = patterns_of("freeze", freeze)
    plan = planned(graph, mode, fuse, cost, loss=loss, frozen=frozen, show=dump)
    plan = replace(plan, bucket_bytes=bucket_bytes, frozen=frozen)
    model = Model(graph, plan, batch, dtype, executor, target, seed, loss)
    if dtype != "fp64":
        dump.kernels(lambda: model.program)
    return model


class Model:
    """A compiled network with its parameters.

    ``m(x)`` (infer) and ``m.loss_and_grads(x, labels)`` (train) take NumPy arrays or torch tensors in NCHW and give
    back the same kind, in float32 (float64 for fp64), however activations are stored. ``m.plan`` is the printable plan,
    ``m.source`` the text of the emitted file.

    Threads may share a model: their calls run one after the other (under Triton's interpreter, those of all models do).
    ``copy.deepcopy`` and ``pickle`` give a model of its own with the same plan, parameters, running statistics and
    step; what was compiled is compiled again.
    """

    def __init__(
        self, graph: Graph, plan: Plan, batch: int, dtype: str, executor: str, target: str | None, seed: int,
        loss: Loss | None = None,
    ):  # fmt: skip
        self.graph, self.plan, self.batch, self.dtype = graph, plan, batch, dtype
        self.mode, self.seed, self.step, self.loss = plan.mode, seed, 0, loss or Loss()
        self._loss_scale = 1.0
        self.chosen_target, self.target = target, target or device_target()
        if executor == "triton" and dtype == "fp64":
            raise TargetError("dtype fp64 is for the numpy and eager executors; triton has fp32, tf32, fp16 and bf16")
        self.on_gpu = executor == "triton" and pick_device() == "cuda"
        self.executor: Any
        if executor == "numpy":
            self.executor = NumpyExecutor(plan, dtype)
        elif executor == "eager":
            self.executor = EagerExecutor(plan, dtype)
        else:
            self.executor = TritonExecutor(plan, self.program, self.target)
        self.executor.load(self._initial())
        self._drawn = True  # are the parameters those of their initialisers?

    def __reduce__(self) -> tuple[Any, ...]:
        with self.executor.lock:
            arguments = (
                self.plan,
                self.batch,
                self.dtype,
                self.executor.name,
                self.chosen_target,
                self.seed,
                self.loss,
            )
            return _remade, (type(self), self.graph, *arguments, self.step, self.state_dict())

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        make, arguments = self.__reduce__()  # graph and plan cannot change, and the state is a copy already
        copy: Model = make(*arguments)
        return copy

    @cached_property
    def program(self) -> Program:
        """The plan lowered to kernels, launches and buffers."""
        if self.dtype == "fp64":
            raise TargetError("dtype fp64 has no Triton kernels; compile for fp32, tf32, fp16 or bf16")
        if self.on_gpu and self.target == device_target() and self.target.startswith("sm_"):
            return settled_for_launch(self.plan, self.dtype, self.batch, self.target)
        return lower(self.plan, self.dtype, self.batch, self.target)

    @cached_property
    def source(self) -> str:
        """The emitted file: every kernel, headed by the layers it computes, and the step that launches them."""
        return emit(self.program)

    # --- parameters ------------------------------------------------------------

    def _state_nodes(self) -> list[Any]:
        ran = {n.name for n in self.plan.graph.nodes}
        return [n for n in (*self.graph.parameters, *self.graph.buffers) if n.name in ran]

    def _initial(self) -> dict[str, np.ndarray]:
        return {
            n.name: draw(Init.parse(n.attrs["init"]), self.graph.types[n.name].per_image, self.seed, n.name)
            for n in self._state_nodes()
        }

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters and running statistics by name, NumPy arrays in PyTorch's layout (conv weight OIHW).
        They are float32, or float64 for fp64."""
        with self.executor.lock:
            return {n.name: self.executor.state(n.name) for n in self._state_nodes()}

    def load_state_dict(
        self, state: Mapping[str, Any] | str | Path, strict: bool = True, key: str | None = None
    ) -> NotLoaded:
        """Take parameters and buffers by name, NumPy arrays or tensors in PyTorch's layout, or a file of them.

        state   a file is ``.safetensors``, ``.pth`` or ``.pt`` (see :func:`tricnn.run.weights.load_weights`). Prefixes
                that all names have are taken away (``module.``, ``_orig_mod.``, ``model.``); timm's VGG is understood.
        strict  if False, what fits is loaded, and one warning says what stays as it was: so the last layer of a network
                of another number of classes is left at its initial values.
        key     which one to take of several, such as ``"model_ema"``.

        Returns what was not loaded, which is nothing where it is strict. Raises CheckpointError that lists every
        missing, unexpected and misshaped tensor by name, or says what is wrong with the file; nothing is loaded then.
        PyTorch's ``num_batches_tracked`` is ignored, and so are auxiliary heads that this network or this mode does not
        have. Warns if the weights are PyTorch's and published ones expect other images than the network was declared
        for (``graphs/published.py``).
        """
        source = "" if isinstance(state, Mapping) else f"{state}: "
        elsewhere = not isinstance(state, Mapping) and str(state).endswith(PYTORCH)
        state = unwrapped(state, key) if isinstance(state, Mapping) else load_weights(state, key)
        elsewhere |= not source and any(is_tensor(x) for x in state.values())
        elsewhere |= any(name.endswith("num_batches_tracked") for name in state)
        shapes = {n.name: self.graph.types[n.name].per_image for n in self._state_nodes()}
        declared = {n.name: self.graph.types[n.name].per_image for n in (*self.graph.parameters, *self.graph.buffers)}
        arrays = {
            name: as_array(x)
            for name, x in without_absent_heads(fitted(state, declared), {*declared}).items()
            if not name.endswith(COUNTERS) and (name in shapes or name not in declared)
        }
        left = NotLoaded(
            [name for name in shapes if name not in arrays],
            [name for name in arrays if name not in shapes],
            [name for name, want in shapes.items() if name in arrays and tuple(arrays[name].shape) != want],
        )
        problems = [f"missing {name}" for name in left.missing] + [f"unexpected {name}" for name in left.unexpected]
        for name in left.other_shapes:
            problems.append(f"{name} has shape {tuple(arrays[name].shape)}, needs {shapes[name]}")
        shown = "; ".join(problems[:12]) + (f"; and {len(problems) - 12} more" if len(problems) > 12 else "")
        fits = {name: x for name, x in arrays.items() if name in shapes and name not in left.other_shapes}
        if problems and (strict or not fits):
            raise CheckpointError(f"{source}weights do not fit {self.graph.name}: {shown}")
        with self.executor.lock:
            kept = {name: self.executor.state(name) for name in (*left.missing, *left.other_shapes)}
            self.executor.load(fits | kept)
            self._drawn = False
        if problems:
            stay = f"{', '.join(kept)} stay as they were" if kept else "all of the network is loaded"
            warnings.warn(f"{source}{self.graph.name}: {shown}: {stay}", stacklevel=2)
        if elsewhere and (note := about_images(self.graph)):
            warnings.warn(note, stacklevel=2)
        return left

    def save_state_dict(self, path: str | Path) -> None:
        """Write :meth:`state_dict` to ``.safetensors``, or ``.pth`` (``.pt``) as ``torch.save`` would.

        Whoever reads the file finds the old one or the new one whole. PyTorch modules with these names load it
        strictly.

        Raises CheckpointError for another suffix, and for a place that cannot be written.
        """
        save_weights(path, self.state_dict())

    def parameters(self) -> dict[str, Any]:
        """The live parameters in storage layout: change them in place and the next step uses them.

        Tensors that were kept from an earlier call are changed as PyTorch knows it: not through ``.data`` or
        ``.numpy()``, which do not say that a 16-bit copy is to be written anew. Raises TargetError for inference where
        weights were computed from these when they were loaded (batch norm is folded): load_state_dict changes them.
        """
        if self.plan.prepared:
            raise TargetError(
                f"{self.graph.name}: inference reads weights that were folded when they were loaded, which no change "
                "in place would reach; change them with load_state_dict, or compile with mode='train' or fuse='none'"
            )
        if (rounded := self.rounded_weights()) is not None:
            rounded.forget()
        return {n.name: self.executor.live(n.name) for n in self.graph.parameters if n in self._state_nodes()}

    def live_state(self) -> dict[str, Any]:
        """Parameters and running statistics in storage layout, as they are after the last step: to be read only."""
        return {n.name: self.executor.live(n.name) for n in self._state_nodes()}

    def running_statistics(self) -> dict[str, Any]:
        """The live running statistics that a step changes, by buffer, in storage layout.
        What is changed of them in place stays."""
        return {buffer: self.executor.live(buffer) for buffer, _ in self.plan.graph.updates}

    @property
    def loss_scale(self) -> float | None:
        """The number that the loss is multiplied by before it is differentiated, 1 at first.

        It is for gradients of activations that fp16 would round to 0, and may be changed from step to step. It is None
        where the step has no such factor (:class:`tricnn.Loss`, ``scaled``). Setting it raises TargetError where there
        is none, TricnnError for what is no positive number.
        """
        return self._loss_scale if self.mode == "train" and self.loss.scaled else None

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None:
        if self.loss_scale is None:
            raise TargetError(
                f"{self.graph.name}: its step has no loss scale; compile with mode='train' and dtype='fp16', or "
                "loss=Loss(scaled=True)"
            )
        if not 0 < scale < float("inf"):
            raise TricnnError(f"loss scale {shown(scale)} is not accepted; it is a positive number")
        self._loss_scale = float(scale)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parameters that training leaves as they are (none for inference)."""
        if self.mode != "train":
            return ()
        trained = dict(self.plan.graph.gradients)
        return tuple(n.name for n in self._state_nodes() if n.row.source is Source.PARAMETER and n.name not in trained)

    def rounded_weights(self) -> RoundedWeights | None:
        """The parameters and the copies of them that products read; None unless this runs Triton kernels.
        An optimiser writes the copies as it updates the parameters."""
        return self.executor.rounded if self.executor.name == "triton" else None

    def to_logical(self, name: str, x: Any) -> np.ndarray:
        """An array in the storage layout of parameter ``name`` as NumPy in PyTorch's layout."""
        return np.asarray(self.executor.to_logical(name, x))

    def to_storage(self, name: str, x: Any) -> Any:
        """An array of parameter ``name`` in PyTorch's layout as storage has it: the inverse of :meth:`to_logical`."""
        return self.executor.to_storage(name, x)

    def resized(self, height: int, width: int) -> Model:
        """This network compiled for images of another size, as it is now: parameters, running statistics and step.

        Raises ShapeError, naming the layer, if it has other weights there.
        """
        plan = self.plan
        other = compile(
            self.graph.resized(height, width),
            self.mode,
            self.batch,
            self.dtype,
            self.executor.name,
            self.chosen_target,
            plan.policy,
            seed=self.seed,
            loss=self.loss or "cross_entropy",
            bucket_bytes=plan.bucket_bytes,
            freeze=plan.frozen,
        )
        with self.executor.lock:
            other.executor.load(self.state_dict())
            other.step, other._loss_scale, other._drawn = self.step, self._loss_scale, self._drawn
        return other

    # --- running ------------------------------------------------------------

    def __call__(self, x: Any) -> Any:
        """Logits ``[N, classes]`` for images ``x: [N, C, H, W]`` (a dictionary if the network has several outputs)."""
        if self.mode != "infer":
            raise TargetError("this model was compiled for training; use loss_and_grads, or compile with mode='infer'")
        given = self._inputs(x, None)
        with self.executor.lock:
            results = self.executor.run(given, len(x), self.seed, self.step)
            outputs = {o.name: as_given(results[o.value], x, self.wide) for o in self.plan.graph.outputs}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def loss_and_grads(self, x: Any, labels: Any) -> tuple[float, dict[str, Any]]:
        """The mean loss of a batch and its gradient by parameter name, in PyTorch's layout.

        Also advances the running statistics, and ``m.step``, which (with the seed) chooses dropout's masks.
        Raises ShapeError or DataError for images that do not fit or are not finite, and labels out of range.
        """
        with self.executor.lock:
            loss, grads = self._step(x, labels)
            given = {name: as_given(g, x, self.wide) for name, g in grads.items()}
            scale = self.loss_scale
            return loss, given if scale in (None, 1.0) else {name: g / scale for name, g in given.items()}

    def loss_and_storage_grads(self, x: Any, labels: Any, watch: Watcher | None = None) -> tuple[float, dict[str, Any]]:
        """The loss of a step and its gradients by parameter, in the layout of :meth:`parameters`.

        That is the layout which an optimiser wants. The gradients lie in the model's memory: the next step, of any
        thread, overwrites them. They are those of the loss times :attr:`loss_scale`, if there is one.

        ``watch`` is told in the middle of the step of each gradient that is finished; what it changes of it is what is
        returned.
        """
        with self.executor.lock:
            loss, grads = self._step(x, labels, watch)
            if self.executor.name == "triton":
                tensors = self.executor.bind(len(x))
                return loss, {p: self.executor.stored(tensors, v) for p, v in self.plan.graph.gradients}
            return loss, grads

    @property
    def device(self) -> str:
        """Where its kernels run and its parameters are: ``cpu``, or ``cuda`` (of AMD's GPUs as well)."""
        return str(self.executor.device).partition(":")[0]

    @property
    def threads(self) -> int | None:
        """How many threads share a product's sums on the CPU: with another number a step has other bits.
        None on a GPU, and where the BLAS does not say."""
        if self.device != "cpu":
            return None
        if self.executor.name == "eager":
            return int(self.executor.torch.get_num_threads())
        return blas_threads()

    @property
    def wide(self) -> str:
        """The type of results: ``float32``, or ``float64`` for fp64."""
        return "float64" if self.dtype == "fp64" else "float32"

    def _step(self, x: Any, labels: Any, watch: Watcher | None = None) -> tuple[float, dict[str, Any]]:
        if self.mode != "train":
            raise TargetError("this model was compiled for inference; compile with mode='train' to train it")
        graph, given = self.plan.graph, self._inputs(x, labels)
        if self._drawn:
            self._say_what_is_zero()
        results = self.executor.run(given, len(x), self.seed, self.step, watch)
        self.step += 1
        return float(results[graph.outputs[0].value]), {p: results[v] for p, v in graph.gradients}

    def _say_what_is_zero(self) -> None:
        """Warn, once, of weights that nobody has given a value: no gradient passes a layer whose weight is zero."""
        self._drawn = False
        zero = [
            n.name
            for n in self.graph.parameters
            if len(self.graph.types[n.name].shape) > 1 and Init.parse(n.attrs["init"]) == Init("constant", 0.0)
        ]
        if zero:
            some = ", ".join(zero[:3]) + (f" and {len(zero) - 3} more" if len(zero) > 3 else "")
            warnings.warn(
                f"{self.graph.name}: trained from zeros: {some}; a parameter declared without init is 0, and a layer "
                'with such a weight hands no gradient on: declare it with init="he_normal", or load weights',
                stacklevel=4,
            )

    def _inputs(self, x: Any, labels: Any) -> dict[str, Any]:
        """Images, and labels when training, as the executor takes them, by the names of the graph's inputs."""
        graph, tensors = self.plan.graph, self.executor.name != "numpy"
        given = {graph.inputs[0].name: check_images(graph, x, tensors=tensors)} if graph.inputs else {}
        others = [node for node in graph.inputs[1:] if not node.attrs["tangent"]]
        if others and self.mode != "train":
            raise ShapeError(f"input {others[0].name}: networks with several inputs are not supported here")
        if others:
            read = read_by_loss(self.loss, self.graph, labels, len(x), tensors=tensors)
            given |= {node.name: value for node, value in zip(others, read, strict=True)}
            given |= {node.name: np.float32(self._loss_scale) for node in graph.inputs if node.attrs["tangent"]}
        return given

    def __repr__(self) -> str:
        where = f"{self.executor.name}{' (interpreted)' if self.executor.name == 'triton' and interpreting() else ''}"
        kernels = plural(len(self.plan.kernels), "kernel")
        return f"<tricnn model {self.graph.name}: {self.mode}, {self.dtype}, {where}, {kernels}>"


def _remade(kind: type[Model], *arguments: Any) -> Model:
    """A model from what :meth:`Model.__reduce__` keeps of one."""
    *parts, step, state = arguments
    model = kind(*parts)
    model.executor.load(state)
    model.step, model._drawn = step, False
    return model
