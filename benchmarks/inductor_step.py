"""What PyTorch's compiler would run for a training step, its Triton kernels simulated beside ours, without a GPU:

    python -m benchmarks.inductor_step record FILE [--network resnet50] [--batch 256]
    python -m benchmarks.inductor_step table FILE

``record`` traces forward and backward of a network with its loss as ``torch.compile`` does (AOTAutograd's joint graph,
min-cut partition, Inductor's decompositions), in bf16 by autocast and channels-last, for a GPU that is not there: 132
multiprocessors of compute capability 9.0. It has Inductor generate its code, runs the generated wrapper on tensors
without memory, to see every launch with its arguments, and simulates each Triton kernel with every configuration that
Inductor would time, of which the fastest counts. Convolutions and matrix products are library calls there; their times
are **estimates that favour PyTorch**: as if each ran at the larger of bytes / 3.0 TB/s and operations / 660 TFLOP/s,
which no library reaches for all of them. The optimiser is not part of either.

Convolutions are taken to return channels-last tensors, as cuDNN does; on a GPU, torch 2.13 may lose that layout in the
backward graph and transpose (pytorch issue 189239), which is not counted.

A record has a line for every launch, in order; what it has already is not simulated again. ``table`` prints the sums.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import re
import runpy
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo.device_interface
import torch._inductor.lowering
import torch._inductor.scheduler
import torch.nn.functional as F
import torch.utils._triton
from torch._functorch.aot_autograd import AOTDispatchCompiler, aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import GridExpr
from torch._inductor.virtualized import V
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from benchmarks.static_figures import status_of
from tricnn.build.compile import CompileError, KernelSpec, compile_kernels, triton_version
from tricnn.cli.arguments import whole
from tricnn.graphs import ARCHITECTURES
from tricnn.machine.simulator import VERSION
from tricnn.measure.pytorch_network import PyTorchNetwork
from tricnn.measure.simulate import REACHED_BYTES_PER_US, REACHED_FLOPS_PER_US, How, kept

H100 = SimpleNamespace(
    name="NVIDIA H100", major=9, minor=0, multi_processor_count=132, warp_size=32, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, shared_memory_per_block_optin=232448,
    total_memory=80 << 30, L2_cache_size=50 << 20, gcnArchName="",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One launch of the generated wrapper.
    ``kernel`` is Triton's, or a library's operation; ``read`` and ``written`` are the bytes of the tensors that it is
    given; ``numbers`` its numbers (of elements) by name, ``flops`` the operations of a library's product."""

    kernel: str
    read: int
    written: int
    numbers: tuple[tuple[str, int], ...] = ()
    flops: int = 0

    @property
    def limit_us(self) -> float:
        return max((self.read + self.written) / REACHED_BYTES_PER_US, self.flops / REACHED_FLOPS_PER_US)


@contextlib.contextmanager
def as_on_an_h100() -> Iterator[None]:
    """A context in which PyTorch takes an H100 to be there: its properties are answered, nothing can be run."""
    interface = torch._dynamo.device_interface.CudaInterface
    torch_cuda: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1,
        "_lazy_init": lambda: None, "current_device": lambda: 0, "set_device": lambda *_: None,
        "get_device_capability": lambda *_: (9, 0), "get_device_properties": lambda *_: H100,
        "_DeviceGuard": lambda *_: contextlib.nullcontext(),
    }  # fmt: skip
    of_interface: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True, "current_device": lambda: 0, "get_device_properties": lambda *_: H100,
        "get_compute_capability": lambda *_: 90, "is_triton_capable": lambda *_: True,
        "raise_if_triton_unavailable": lambda *_, **__: None,
    }  # fmt: skip

    def layout(x: torch.Tensor, weight: torch.Tensor, _: Any) -> torch.memory_format:
        formats = suggest_memory_format(x), suggest_memory_format(weight)
        return torch.channels_last if torch.channels_last in formats else torch.contiguous_format

    elsewhere: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (torch._inductor.scheduler, "has_triton", lambda *_: True),
        (torch.utils._triton, "triton_hash_with_backend", lambda: ""),
        (triton_helpers, "set_driver_to_gpu", lambda: None),
        (torch._C, "_conv_determine_backend_memory_format", layout),
    )
    with contextlib.ExitStack() as stack:
        for name, value in torch_cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name, value in of_interface.items():
            stack.enter_context(mock.patch.object(interface, name, staticmethod(value)))
        for place, name, value in elsewhere:
            stack.enter_context(mock.patch.object(place, name, value))
        yield


def graphs(network: str, batch: int, mode: FakeTensorMode) -> dict[str, tuple[torch.fx.GraphModule, list[Any]]]:
    """Forward and backward of a network's training step as AOTAutograd gives them to a compiler, with their inputs.
    They are traced for a CPU, whose tensors without memory can be differentiated anywhere."""
    graph = ARCHITECTURES[network]()
    found: dict[str, tuple[torch.fx.GraphModule, list[Any]]] = {}

    def compiler(name: str) -> AOTDispatchCompiler:
        def keep(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
            found[name] = gm, list(example_inputs)
            return make_boxed_func(gm)

        return keep

    def tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        channels_last = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return torch.empty(*shape, dtype=dtype).to(memory_format=channels_last)

    with mode:
        module = PyTorchNetwork(graph, "train")
        parameters = {name: tensor(p.shape, p.dtype).requires_grad_() for name, p in module.named_parameters()}
        buffers = {name: tensor(b.shape, b.dtype) for name, b in module.named_buffers()}
        images = tensor((batch, *graph.types[graph.nodes[0].name].per_image), torch.bfloat16)
        labels = torch.empty(batch, dtype=torch.int64)

        def loss(parameters: Any, buffers: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = torch.func.functional_call(module, {**parameters, **buffers}, (images,))[0]
            return F.cross_entropy(logits.float(), labels)

        step = aot_function(
            loss, fw_compiler=compiler("forward"), bw_compiler=compiler("backward"),
            partition_fn=min_cut_rematerialization_partition, decompositions=select_decomp_table(),
        )  # fmt: skip
        step(parameters, buffers, images, labels).backward()
    return found


def generated(
    module: torch.fx.GraphModule, inputs: Sequence[Any], mode: FakeTensorMode, backward: bool
) -> tuple[str, list[Any]]:
    """The wrapper that Inductor generates for a graph moved to the GPU, and the inputs that it takes."""

    def moved(value: Any) -> Any:
        return torch.device("cuda", 0) if value == torch.device("cpu") else value

    for node in module.graph.nodes:
        node.args, node.kwargs = tree_map(moved, node.args), tree_map(moved, node.kwargs)
    module.recompile()
    with mode:
        there = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda") if torch.is_tensor(x) else x
            for x in inputs
        ]
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*there)
    with V.set_fake_mode(mode):
        post_grad_passes(module, is_inference=False)
        lowering = GraphLowering(module, example_inputs=there, is_backward=backward)
        with V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*there)
            code, _ = lowering.codegen()
    return str(getattr(code, "value", code)), there


class _Libraries(TorchDispatchMode):
    """Notes every product that a wrapper has a library compute."""

    def __init__(self, calls: list[Call]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").split(".")[0]
        if name == "convolution":
            self._product("convolution", args[:2], result, 2 * result.numel() * (args[1].numel() // args[1].shape[0]))
        elif name == "convolution_backward":
            gradient, x, weight = args[:3]
            flops = 2 * gradient.numel() * (weight.numel() // weight.shape[0])
            for which, operands, wanted in (("input", (gradient, weight), 0), ("weight", (gradient, x), 1)):
                if result[wanted] is not None:
                    self._product(f"convolution_backward, {which}", operands, result[wanted], flops)
        return result

    def matrices(self, *operands: torch.Tensor, out: torch.Tensor, **_: Any) -> torch.Tensor:
        """A product of matrices, to which the first of three operands is added, into ``out``; it is not computed."""
        left, right = operands[-2:]
        self._product("mm", operands, out, 2 * left.numel() * right.shape[1])
        return out

    def _product(self, name: str, operands: Sequence[torch.Tensor], result: torch.Tensor, flops: int) -> None:
        self.calls.append(Call(name, sum(map(_bytes, operands)), _bytes(result), (), flops))


def _bytes(x: torch.Tensor) -> int:
    return x.numel() * x.element_size()


def calls_of(wrapper: str, inputs: Sequence[Any], mode: FakeTensorMode) -> tuple[list[Call], dict[str, str]]:
    """Every launch of a generated wrapper, in order, and the text of each of its Triton kernels."""
    tree = ast.parse(wrapper)
    sources: dict[str, str] = {}
    for node in tree.body:
        call = node.value if isinstance(node, ast.Assign) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "async_compile.triton":
            name, text = (ast.literal_eval(argument) for argument in call.args[:2])
            sources[name] = text
    calls: list[Call] = []
    libraries = _Libraries(calls)

    def recorder(name: str) -> SimpleNamespace:
        head = re.search(rf"^def {name}\((.*)\):$", sources[name], re.MULTILINE)
        assert head is not None
        parameters = [p.strip() for p in head[1].split(",") if "constexpr" not in p]

        def run(*given: Any, stream: int) -> None:
            named = list(zip(parameters, given, strict=True))
            read = sum(_bytes(x) for p, x in named if p.startswith(("in_ptr", "in_out_ptr")))
            written = sum(_bytes(x) for p, x in named if p.startswith(("out_ptr", "in_out_ptr")))
            numbers = tuple((p, int(x)) for p, x in named if not torch.is_tensor(x))
            calls.append(Call(name, read, written, numbers))

        return SimpleNamespace(run=run)

    def empty(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(shape, stride, dtype=dtype, device="cuda")

    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "call")
    text = textwrap.dedent(ast.get_source_segment(wrapper, function, padded=True) or "")
    namespace: dict[str, Any] = {
        "torch": torch, "aten": torch.ops.aten, "empty_strided_cuda": empty, "get_raw_stream": lambda _: 0,
        "reinterpret_tensor": torch.as_strided, "assert_size_stride": lambda *_: None,
        "assert_alignment": lambda *_: None,
        "extern_kernels": SimpleNamespace(
            convolution=lambda x, w, bias, **how: torch.ops.aten.convolution(x, w, bias, **how),
            mm=libraries.matrices, addmm=libraries.matrices,
        ), **{name: recorder(name) for name in sources},
    }  # fmt: skip
    exec(compile(text, "wrapper", "exec"), namespace)
    with mode, libraries:
        namespace["call"](None, list(inputs))
    return calls, sources


def forms(source: str, name: str) -> Iterator[tuple[KernelSpec, Callable[[Call], How]]]:
    """Each way in which Inductor would try a kernel, and how a call launches it so."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name[:100]}.py"  # Triton reads a function's text from its file
        file.write_text(source, encoding="utf-8")
        tuner = runpy.run_path(str(file))[name]
    signature = {p: t for p, t in tuner.triton_meta["signature"].items() if t != "constexpr"}
    plain = re.sub(r"^@triton_heuristics.*?^@triton", "@triton", source, flags=re.MULTILINE | re.DOTALL)
    plain = plain.replace("triton_helpers.set_driver_to_gpu()\n", "").replace(", triton_heuristics", "")
    for config in tuner.configs:
        constants = {**tuner.triton_meta.get("constants", {}), **config.kwargs}
        spec = KernelSpec(name, plain, signature, constants, config.num_warps, config.num_stages)

        def how(call: Call, config: Any = config) -> How:
            given = dict(call.numbers)
            x, y, z = GridExpr.from_meta(tuner.inductor_meta, config, mode="python").eval_slow(given)
            return How((x, y, z), signature, {p: v for p, v in given.items() if p in signature}, float(call.read))

        yield spec, how


def simulated(call: Call, source: str, cache: Path | None) -> dict[str, Any]:
    """The time of a Triton kernel's launch with the fastest of its configurations, or the reason why there is none."""
    tried = list(forms(source, call.kernel))
    compiled = compile_kernels([spec for spec, _ in tried], "sm_90", cache_dir=cache, return_errors=True)
    best: dict[str, Any] = {"problem": "no configuration"}
    for (_, how), code in zip(tried, compiled, strict=True):
        if isinstance(code, CompileError):
            best = best if "us" in best else {"problem": str(code)}
            continue
        found = kept(code, how(call), cache_dir=cache)
        if isinstance(found, str):
            best = best if "us" in best else {"problem": found}
        elif "us" not in best or found.us < best["us"]:
            best = {"us": round(found.us, 3), "waits_for": found.reason}
    return {**best, "configurations": len(tried)}


def record(network: str, batch: int, path: Path, cache: Path | None, tell: Callable[[str], None]) -> None:
    """Write a line for every launch of the step that the file does not have yet."""
    known = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    launches: list[tuple[str, Call, str]] = []
    traced = graphs(network, batch, mode)
    with as_on_an_h100():
        for part, (module, inputs) in traced.items():
            wrapper, there = generated(module, inputs, mode, backward=part == "backward")
            calls, sources = calls_of(wrapper, there, mode)
            launches += [(part, call, sources.get(call.kernel, "")) for call in calls]
        done: dict[Call, dict[str, Any]] = {}
        with path.open("a", encoding="utf-8") as file:
            for number, (part, call, source) in enumerate(launches):
                if number < known:
                    continue
                if source and call not in done:
                    tell(f"{number + 1}/{len(launches)} {call.kernel}")
                    done[call] = simulated(call, source, cache)
                line = {
                    "network": network, "batch": batch, "part": part, "kernel": call.kernel,
                    "triton": bool(source), "bytes": call.read + call.written, "flops": call.flops,
                    "limit_us": round(call.limit_us, 3), **done.get(call, {}), "torch": torch.__version__,
                    "with": triton_version(), "model": VERSION,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
                file.flush()


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sums of a record as lines of Markdown; times of libraries are their limits, and said to be."""
    rows = ["| part | by | launches | GB | us | |", "|---|---|--:|--:|--:|---|"]
    total = launches = moved = 0.0
    for part in dict.fromkeys(line["part"] for line in lines):
        for triton in (True, False):
            own = [line for line in lines if line["part"] == part and line["triton"] is triton]
            us = sum(line.get("us", line["limit_us"]) for line in own)
            unknown = sum(triton and "us" not in line for line in own)
            how = "simulated" if triton else "estimate: each at its limit"
            how += f"; {unknown} not simulated, at their limit" if unknown else ""
            gigabytes = sum(line["bytes"] for line in own) / 1e9
            by = "Triton" if triton else "libraries"
            rows.append(f"| {part} | {by} | {len(own)} | {gigabytes:,.1f} | {us:,.0f} | {how} |")
            total, launches, moved = total + us, launches + len(own), moved + gigabytes
    return [*rows, f"| step | | {launches:,.0f} | {moved:,.1f} | {total:,.0f} | |"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="generate and simulate")
    for command in (recording, commands.add_parser("table", help="print the sums of a record")):
        command.add_argument("file", type=Path, metavar="FILE")
    recording.add_argument("--network", choices=sorted(ARCHITECTURES), default="resnet50", metavar="NAME")
    recording.add_argument("--batch", type=whole(1), default=256, help="(256)")
    recording.add_argument("--cache", type=Path, metavar="DIR", help="where compiled kernels and times are kept")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.command == "record":

            def tell(text: str) -> None:
                print(text, file=sys.stderr, flush=True)

            record(options.network, options.batch, options.file, options.cache, tell)
        else:
            lines = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
            print("\n".join(table(lines)))
        return 0

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
