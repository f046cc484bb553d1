"""Compile kernels for a GPU that need not be there, in parallel, and say what the machine code is like.

`compile_kernels` looks every kernel up in the cache (cache.py) and has worker processes (worker_pool.py) compile the
rest with Triton. When all are cached no process starts and triton is not imported.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import importlib.util
import json
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, overload

from tricnn.build.cache import Entry, KernelCache
from tricnn.build.worker_pool import POOL, TOOL_PATHS, WORKER, WorkerDied, apart
from tricnn.machine import sass
from tricnn.machine.targets import Target, parse_target
from tricnn.system.cores import workers as cores_for_workers
from tricnn.system.errors import TargetError
from tricnn.system.paths import cache_folder


@dataclass(frozen=True)
class SourceName:
    """A constant that is something in the kernel's source, by its name: SourceName("tl.float16"), or a helper."""

    name: str


@dataclass(frozen=True)
class KernelSpec:
    """A kernel to compile."""

    name: str  # the function in `source` to compile
    source: str  # a module that imports triton and triton.language only
    signature: Mapping[str, str]  # argument -> "*fp32", "i32", ...; pointers are taken to be 16-byte aligned
    constants: Mapping[str, object]  # constexpr argument -> number, text, bool, None, SourceName, or a tuple of them
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True)
class CompiledKernel:
    """A compiled kernel. inspect_binary.py says where each figure is read."""

    name: str
    target: str
    digest: str  # of everything that went into it: the cache's key
    binary: bytes = field(repr=False)
    binary_kind: str  # "cubin" or "hsaco"
    assembly: Mapping[str, str] = field(repr=False)  # {"ptx": ...} or {"amdgcn": ...}
    registers: int  # per thread
    spill_bytes: int  # per thread; 0 means that nothing is spilt
    shared_bytes: int  # per block
    num_warps: int  # of the launch: Triton adds to those asked for when it specialises warps
    tensor_core: bool
    bulk_copy: bool
    hazards: int  # pairs of instructions of which one overwrites what the other, in flight, still reads: hazards.py
    from_cache: bool


class Sized(Protocol):
    """What a launch asks for."""

    @property
    def shared_bytes(self) -> int: ...

    @property
    def num_warps(self) -> int: ...


class CompileError(TargetError):
    """A kernel that does not compile for a target. `detail` has the compiler's own words."""

    def __init__(self, kernel: str, target: str, reason: str, detail: str = ""):
        super().__init__(f"kernel {kernel} does not compile for {target}: {reason}")
        self.kernel, self.target, self.reason, self.detail = kernel, target, reason, detail


class CompilerFailed(CompileError):
    """A kernel on which Triton's own compiler ends with an error, as older ones do in passes that newer ones mend."""


@overload
def compile_kernels(
    specs: Sequence[KernelSpec],
    target: str,
    *,
    cache_dir: Path | None = ...,
    workers: int | None = ...,
    on_done: Callable[[CompiledKernel], None] | None = ...,
    return_errors: Literal[False] = ...,
    lines: bool = ...,
) -> list[CompiledKernel]: ...


@overload
def compile_kernels(
    specs: Sequence[KernelSpec],
    target: str,
    *,
    cache_dir: Path | None = ...,
    workers: int | None = ...,
    on_done: Callable[[CompiledKernel], None] | None = ...,
    return_errors: Literal[True],
    lines: bool = ...,
) -> list[CompiledKernel | CompileError]: ...


def compile_kernels(
    specs: Sequence[KernelSpec],
    target: str,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    on_done: Callable[[CompiledKernel], None] | None = None,
    return_errors: bool = False,
    lines: bool = False,
) -> list[CompiledKernel] | list[CompiledKernel | CompileError]:
    """Compile each of `specs` for `target`; the results are in their order.

    cache_dir: where compiled kernels are kept; by default $TRICNN_CACHE, $XDG_CACHE_HOME/tricnn or ~/.cache/tricnn.
    workers: how many processes compile at once; by default as system/cores.py says: usable cores, memory, a setting.
    on_done: called in this thread with each result as it comes, cached ones first.
    return_errors: give a kernel's CompileError in its place (for trying variants, some of which will not do).
    Without it the first one is raised, and what is still being compiled is given up.
    lines: with a table in the binary of which lines of the source each instruction came from.

    Equal specifications are compiled once. A kernel that needs more shared memory or threads than a block of the target
    can have is an error here already: it could never be launched.

    Raises TargetError for an unknown target, without triton, or (NoPlace, even with `return_errors`) where nothing can
    be compiled, as with a full TMPDIR; CompileError, naming kernel and target.
    """
    gpu = parse_target(target)
    disk = KernelCache(cache_folder() if cache_dir is None else cache_dir)
    tools = toolchain()
    places: dict[str, list[int]] = {}
    jobs: dict[str, dict[str, Any]] = {}
    results: list[CompiledKernel | CompileError | None] = [None] * len(specs)

    def settle(digest: str, result: CompiledKernel | CompileError) -> None:
        if isinstance(result, CompiledKernel) and (reason := excess(result, gpu)):
            result = CompileError(result.name, gpu.name, reason)
        if isinstance(result, CompileError) and not return_errors:
            raise result
        for index in places[digest]:
            results[index] = result
            if on_done is not None and isinstance(result, CompiledKernel):
                on_done(result)

    for index, spec in enumerate(specs):
        try:
            job = job_of(spec, gpu)
        except CompileError as error:
            if not return_errors:
                raise
            results[index] = error
            continue
        made_of = [job, tools, *(["lines"] if lines else [])]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        places.setdefault(digest, []).append(index)
        jobs[digest] = job
    missing = []
    for digest, job in jobs.items():
        entry = disk.get(digest)
        cached = None if entry is None else _from_entry(job["name"], gpu, digest, entry)
        if cached is None:
            missing.append(digest)
        else:
            settle(digest, cached)
    if missing:
        at_once = cores_for_workers() if workers is None else workers
        answers = POOL.run([jobs[digest] for digest in missing], at_once, apart_with_lines if lines else apart)
        try:
            for number, answer in answers:
                digest = missing[number]
                settle(digest, _from_answer(jobs[digest]["name"], gpu, digest, answer, disk))
        finally:
            answers.close()
    return [result for result in results if result is not None]


def apart_with_lines(scratch: Path) -> dict[str, str]:
    """The environment of a worker that leaves a table of the source's lines in the binary."""
    return {**apart(scratch), "TRITON_DISABLE_LINE_INFO": "0"}


def excess(kernel: Sized, gpu: Target) -> str | None:
    """What a kernel asks for and the target has not."""
    if kernel.shared_bytes > gpu.shared_limit:
        return f"it needs {kernel.shared_bytes} bytes of shared memory, a block has at most {gpu.shared_limit}"
    if kernel.num_warps * gpu.warp_size > gpu.thread_limit:
        return f"it needs {kernel.num_warps} warps of {gpu.warp_size}, a block has at most {gpu.thread_limit} threads"
    return None


def _from_answer(
    name: str, gpu: Target, digest: str, answer: dict[str, Any] | WorkerDied, disk: KernelCache
) -> CompiledKernel | CompileError:
    if isinstance(answer, WorkerDied):
        return CompileError(name, gpu.name, str(answer))
    if "error" in answer:
        return CompilerFailed(name, gpu.name, answer["error"], answer["detail"])
    blobs = {language: text.encode() for language, text in answer["assembly"].items()}
    entry = Entry(answer["facts"], {"binary": base64.b64decode(answer["binary"]), **blobs})
    kernel = _from_entry(name, gpu, digest, entry)
    assert kernel is not None
    disk.put(digest, entry)
    return replace(kernel, from_cache=False)


_FACTS = {
    "registers": int,
    "spill_bytes": int,
    "shared_bytes": int,
    "num_warps": int,
    "tensor_core": bool,
    "bulk_copy": bool,
    "hazards": int,
}


def _from_entry(name: str, gpu: Target, digest: str, entry: Entry) -> CompiledKernel | None:
    """The kernel an entry of the cache describes; None if it is not such an entry."""
    facts, blobs = entry.facts, dict(entry.blobs)
    binary = blobs.pop("binary", b"")
    if not binary or set(facts) != set(_FACTS) or any(type(facts[key]) is not kind for key, kind in _FACTS.items()):
        return None
    try:
        assembly = {language: text.decode() for language, text in blobs.items()}
    except UnicodeDecodeError:
        return None
    return CompiledKernel(
        name=name,
        target=gpu.name,
        digest=digest,
        binary=binary,
        binary_kind=gpu.binary_kind,
        assembly=assembly,
        from_cache=True,
        **facts,
    )


_TYPES = (
    "i1",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
    "u16",
    "u32",
    "u64",
    "fp8e4nv",
    "fp8e5",
    "fp16",
    "bf16",
    "fp32",
    "fp64",
)


def _element(kind: str) -> str:
    """The type of what an argument points at, or is."""
    descriptor = re.fullmatch(r"tensordesc<(\w+)\[\d+(, \d+)*\]>", kind)
    return descriptor[1] if descriptor else kind.removeprefix("*")


def job_of(spec: KernelSpec, gpu: Target) -> dict[str, Any]:
    """What a worker is told: JSON, and all that the binary depends on besides the toolchain."""
    if not spec.name.isidentifier():
        raise CompileError(repr(spec.name), gpu.name, "a kernel's name must be a Python identifier")
    try:
        constants = {name: _plain(name, value) for name, value in spec.constants.items()}
    except TypeError as error:
        raise CompileError(spec.name, gpu.name, str(error)) from None
    for name, kind in spec.signature.items():
        if _element(kind) not in _TYPES:
            raise CompileError(
                spec.name,
                gpu.name,
                f"its argument {name!r} has the unknown type {kind!r}; known, with * for a pointer: {' '.join(_TYPES)};"
                " or tensordesc<...[...]>",
            )
    both = sorted(set(spec.signature) & set(constants))
    if both:
        raise CompileError(spec.name, gpu.name, f"its argument {both[0]!r} is both in the signature and a constant")
    return {
        "name": spec.name,
        "source": spec.source,
        "signature": dict(spec.signature),
        "constants": constants,
        "options": {
            "num_warps": spec.num_warps,
            "num_stages": spec.num_stages,
            "enable_fp_fusion": os.environ["TRITON_DEFAULT_FP_FUSION"]
            != "0",  # as launching has it: tricnn/__init__.py
        },
        "target": {"backend": gpu.backend, "arch": gpu.arch, "warp_size": gpu.warp_size},
    }


def _plain(name: str, value: object) -> Any:
    """A constant as JSON: NumPy's numbers as Python's, tuples as lists, SourceName as an object."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, SourceName):
        return {"name": value.name}
    if isinstance(value, tuple | list):
        return [_plain(name, item) for item in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(
        f"its constant {name!r} is of type {type(value).__name__}; "
        "constants are numbers, text, booleans, None, SourceName, or tuples of them"
    )


def toolchain() -> list[Any]:
    """What decides, besides a job, what is compiled: Triton's version and build, the tools chosen, our own reading."""
    spec = importlib.util.find_spec("triton")  # finds, does not import
    if spec is None or spec.origin is None:
        raise TargetError("compiling for a GPU needs triton, which is not installed: pip install triton")
    tools = []
    for variable in TOOL_PATHS:
        if path := os.environ.get(variable):
            try:
                status = os.stat(path)
                tools.append([variable, path, status.st_size, status.st_mtime_ns])
            except OSError:
                tools.append([variable, path])
    return [_triton_build(spec.origin), tools, _reading()]


def triton_version() -> str:
    """The version of the Triton that compiles, such as ``3.9.0``."""
    return str(toolchain()[0][0])


@cache
def _triton_build(init_file: str) -> list[Any]:
    match = re.search(r"""^__version__\s*=\s*['"]([^'"]+)""", Path(init_file).read_text(), re.MULTILINE)
    version = match[1] if match else ""
    libraries = sorted(glob.glob(os.path.join(os.path.dirname(init_file), "_C", "libtriton*")))
    return [version, [os.path.getsize(library) for library in libraries]]


@cache
def _reading() -> str:
    """The code that compiles and reads the facts, so that changing it makes the older entries stale."""
    beside = ("inspect_binary", "hazards", "worker_pool", "emitted_module")
    files = [WORKER, *(WORKER.with_name(f"{name}.py") for name in beside), Path(sass.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
