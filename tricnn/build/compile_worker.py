"""A process that compiles kernels, one at a time: `python -P compile_worker.py`.

Run by its path, it imports triton and nothing of tricnn (nor torch): ready in 0.3 s. On standard input come messages,
each a length of four bytes (little endian) and that much JSON: first `{"path": sys.path, "idle_seconds": s}`, then
jobs. To each job it answers one message on standard output.

A job has ``name`` (of the function), ``signature``, ``options``, ``target`` and

- ``source``, the text of a module, and ``constants``: the answer has the machine code, for compile.py to keep, and what
  is in it;
- or ``module``, the file of an emitted one: the function is compiled just as launching it would, into Triton's own
  cache, where launching finds it (compile_ahead.py). What it spills, and its hazards, are known only if it is compiled
  ``anew``.

It ends itself when its input closes, which the operating system sees to however the parent dies, and after
`idle_seconds` without a job. With it go its temporary directory (its working directory) and whatever it was running (it
leads a process group).
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import queue
import re
import shutil
import signal
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

_SOURCE_MODULE = "tricnn_kernel_source"


def main() -> None:
    scratch = Path.cwd()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints goes to the log
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    requests = sys.stdin.buffer
    hello = _receive(requests)
    if hello is None:
        _end(scratch)
    sys.path[:] = hello["path"]
    threading.Thread(target=_read_jobs, args=(requests, jobs, scratch), daemon=True).start()
    while True:
        try:
            job = jobs.get(timeout=hello["idle_seconds"])
        except queue.Empty:
            _end(scratch)
        reply = json.dumps(_answer(job, scratch)).encode()
        replies.write(len(reply).to_bytes(4, "little") + reply)
        replies.flush()


def _end(scratch: Path) -> NoReturn:
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(4)
    length = int.from_bytes(head, "little")
    body = stream.read(length)
    return json.loads(body) if len(head) == 4 and len(body) == length else None


def _read_jobs(stream: BinaryIO, jobs: queue.SimpleQueue[dict[str, Any]], scratch: Path) -> None:
    """Hand jobs on; in a thread of its own so that a closed input is noticed in the middle of a compilation."""
    while (job := _receive(stream)) is not None:
        jobs.put(job)
    _end(scratch)


def _answer(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    os.ftruncate(2, 0)  # the log of this job only
    os.lseek(2, 0, os.SEEK_SET)
    try:
        return _compile(job, scratch)
    except Exception as error:  # whatever the compiler raises is the answer
        if place := _beside("workplace").place_at_fault(error, _written_to(job, scratch)):
            return {"place": place}
        log = (scratch / "log").read_text(errors="replace")
        reason = _reason(error, log).replace(f"{scratch}{os.sep}", "")
        return {"error": reason, "detail": "".join(traceback.format_exception(error)) + log}
    finally:
        sys.modules.pop(_SOURCE_MODULE, None)
        for leftover in scratch.iterdir() if scratch.is_dir() else ():
            if leftover.name != "log":
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()


def _written_to(job: dict[str, Any], scratch: Path) -> Path:
    if "module" not in job:
        return scratch
    import triton

    return Path(triton.knobs.cache.dir)


class _BadSpec(Exception):
    """The specification does not fit the source; the text says how."""


def _compile(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    import triton

    if "module" not in job:
        return _machine_code(job, *compiled(job, *described(job, scratch)))
    kernel = getattr(_emitted(Path(job["module"])), job["name"])
    signature = {name: job["signature"][name] for name in kernel.arg_names}
    triton.knobs.compilation.always_compile = job["anew"]
    return _left_for_launching(*compiled(job, kernel, signature, {}))


def compiled(
    job: dict[str, Any], kernel: Any, signature: dict[str, str], constants: dict[str, Any]
) -> tuple[Any, str]:  # fmt: skip
    """What Triton makes of a kernel, and what ptxas printed of it: nothing, if it was in the cache."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    aligned = {
        (index,): [["tt.divisibility", 16]] for index, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    target = GPUTarget(job["target"]["backend"], job["target"]["arch"], job["target"]["warp_size"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        made = triton.compile(ASTSource(kernel, signature, constants, aligned), target=target, options=job["options"])
    return made, printed.getvalue()


def described(job: dict[str, Any], scratch: Path) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """The function of a job with its source, the types of its arguments, and its constants."""
    import triton

    module = _load(job["name"], job["source"], scratch)
    kernel = getattr(module, job["name"], None)
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise _BadSpec(f"the source has no @triton.jit function {job['name']}")
    given, constants = job["signature"], {k: _constant(v, module) for k, v in job["constants"].items()}
    known = set(kernel.arg_names)
    for name in [*given, *constants]:
        if name not in known:
            raise _BadSpec(f"it has no argument {name!r}; it has {', '.join(kernel.arg_names)}")
    for parameter in kernel.params:
        if parameter.name not in given and parameter.name not in constants:
            if not parameter.has_default:
                raise _BadSpec(f"its argument {parameter.name!r} is in neither the signature nor the constants")
            constants[parameter.name] = parameter.default
    return kernel, {name: given.get(name, "constexpr") for name in kernel.arg_names}, constants


def _machine_code(job: dict[str, Any], compiled: Any, printed: str) -> dict[str, Any]:
    if job["target"]["backend"] == "cuda":
        binary, language = compiled.asm["cubin"], "ptx"
        answer = _facts_of_cubin(compiled, printed)
    else:
        binary, language = compiled.asm["hsaco"], "amdgcn"
        answer = _beside("inspect_binary").hip_facts(compiled.asm["amdgcn"], compiled.metadata.shared)
    return {
        "facts": {**answer, "num_warps": compiled.metadata.num_warps},
        "binary": base64.b64encode(binary).decode(),
        "assembly": {language: compiled.asm[language]},
    }


def _left_for_launching(compiled: Any, printed: str) -> dict[str, Any]:
    """What is known of a kernel that Triton has in its cache."""
    seen = _facts_of_cubin(compiled, printed) if printed else {}
    shared = seen.get("shared_bytes", compiled.metadata.shared)
    facts = {"shared_bytes": shared, "num_warps": compiled.metadata.num_warps}
    return {"facts": facts | {name: int(seen.get(name, 0)) for name in ("spill_bytes", "hazards")}}


def _facts_of_cubin(compiled: Any, printed: str) -> dict[str, Any]:
    import triton

    facts, hazards = _beside("inspect_binary"), _beside("hazards")
    disassembler = triton.knobs.nvidia.nvdisasm.path
    return facts.cuda_facts(
        compiled.asm["cubin"], printed, compiled.metadata.shared,
        lambda cubin: len(hazards.of_cubin(cubin, disassembler)),
    )  # fmt: skip


@cache
def _emitted(path: Path) -> ModuleType:
    """The module of an emitted file, with the keys that launching it will form."""
    sys.modules.setdefault("torch", ModuleType("torch"))  # which no kernel needs: it takes seconds to import
    helper = _beside("emitted_module")
    module: ModuleType = helper.load_file(path, path.stem)
    helper.make_keys(module)
    return module


def _load(name: str, source: str, scratch: Path) -> ModuleType:
    """The module of a kernel's source; a real file, for Triton reads its functions' text back."""
    path = scratch / f"{name[:100]}.py"
    path.write_text(source, encoding="utf-8")
    module: ModuleType = _beside("emitted_module").load_file(path, _SOURCE_MODULE)
    return module


def _beside(name: str) -> ModuleType:
    """A module of this file's folder, without the package around it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
    return sys.modules[name]


def _constant(value: Any, module: ModuleType) -> Any:
    if isinstance(value, list):
        return tuple(_constant(item, module) for item in value)
    if isinstance(value, dict):
        result: Any = module
        for part in value["name"].split("."):
            if not hasattr(result, part):
                raise _BadSpec(f"the source has no {value['name']}")
            result = getattr(result, part)
        return result
    return value


def _reason(error: BaseException, log: str) -> str:
    """What went wrong, in one line: the innermost message, and the line of the kernel it is about."""
    if isinstance(error, _BadSpec):
        return str(error)
    line, innermost = "", error
    while True:
        node, source = getattr(innermost, "node", None), getattr(innermost, "src", None)
        if node is not None and source is not None and hasattr(node, "lineno"):
            lines = source.splitlines()
            line = lines[node.lineno - 1].strip() if 0 < node.lineno <= len(lines) else line
        if innermost.__cause__ is None:
            break
        innermost = innermost.__cause__
    message = str(getattr(innermost, "error_message", None) or innermost)
    lines = [text.strip() for text in message.splitlines() if text.strip()]
    # Tools say on a line of theirs what was wrong: ptxas in the message, MLIR and LLVM only in the log.
    told = [text.strip() for text in [*lines, *log.splitlines()] if re.search(r"\b(error|fatal)\s*:", text)]
    text = (told or lines or [type(innermost).__name__])[0]
    if isinstance(innermost, SyntaxError):
        text = f"syntax error in line {innermost.lineno}: {innermost.msg}"
    elif not told and type(innermost).__name__ not in ("CompilationError", "InspectionError"):
        text = f"{type(innermost).__name__}: {text}"
    return f"{text} (at `{line}`)" if line else text


if __name__ == "__main__":
    main()
