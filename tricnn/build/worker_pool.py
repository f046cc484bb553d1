"""Worker processes for compilation, kept warm between calls.

The workers run compile_worker.py by its path, so nothing of the caller is imported again: a script needs no
`if __name__ == "__main__"`, and forking with threads about is no concern. Each has its own process group and temporary
directory. They end with the process that started them, at the latest `IDLE_SECONDS` after their last job.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from ..system.errors import TargetError
from .workplace import place_at_fault

WORKER = Path(__file__).with_name("compile_worker.py")
IDLE_SECONDS = 60.0
_REUSE_SECONDS = 45.0  # well before a worker ends itself

# Settings that change what Triton compiles, or how it talks. None reaches a worker, so equal specifications give equal
# binaries; the paths of tools and libraries do, and are part of the cache's key.
TOOL_PATHS = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH", "TRITON_LIBDEVICE_PATH")
_DROPPED_PREFIXES = ("TRITON_", "AMDGCN_", "MLIR_", "LLVM_", "NVPTX_", "DISABLE_", "ALLOW_", "PTXAS_")
_DROPPED = ("USE_IR_LOC", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS")
#: what no compiler reads, and what differs from call to call: workers of another environment are not used again
_UNREAD = ("TRICNN_", "PYTEST_CURRENT_TEST", "COLUMNS", "LINES")


Environment = Callable[[Path], dict[str, str]]


def _read_by_compilers() -> dict[str, str]:
    """The environment but for what no compiler reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_UNREAD)}


def apart(scratch: Path) -> dict[str, str]:
    """The environment of a worker whose answers depend on its jobs alone; ``scratch`` is its folder."""
    kept = {
        name: value
        for name, value in _read_by_compilers().items()
        if name in TOOL_PATHS or not (name.startswith(_DROPPED_PREFIXES) or name in _DROPPED)
    }
    return kept | {
        "TMPDIR": str(scratch),
        "TRITON_CACHE_DIR": str(scratch / "triton"),  # ours is the cache to trust; this one goes with the job
        "TRITON_DUMP_PTXAS_LOG": "1",
        "TRITON_DISABLE_LINE_INFO": "1",  # it would put the temporary directory's name into the binary
        "MLIR_DISABLE_MULTITHREADING": "1",  # a process per core is threads enough
        "PYTHONIOENCODING": "utf-8",
    }


def as_launched(scratch: Path) -> dict[str, str]:
    """The environment of a worker that compiles what this process will launch.
    It compiles into the same cache, under the same keys."""
    return _read_by_compilers() | {"TMPDIR": str(scratch), "TRITON_DUMP_PTXAS_LOG": "1", "TRITON_INTERPRET": "0"}


def search_path() -> list[str]:
    """``sys.path`` for a process that works in another folder, without what is relative to a folder that is gone."""
    found = []
    for entry in sys.path:
        with contextlib.suppress(OSError):
            found.append(os.path.abspath(entry))
    return found


class WorkerDied(Exception):
    """A worker ended instead of answering; the text says how."""


class NoPlace(TargetError):
    """Kernels cannot be compiled here, whichever they are: no room in the temporary folder, or no such folder."""

    def __init__(self, problem: str):
        super().__init__(f"kernels cannot be compiled here: {problem}; TMPDIR names a folder with room")


#: stands for a worker's folder where two environments are compared
_ANY = Path("scratch")


class _Worker:
    def __init__(self, environment: Environment) -> None:
        self.environment = environment(_ANY)
        try:
            self.scratch = Path(tempfile.mkdtemp(prefix="tricnn-compile-"))
        except OSError as error:
            raise NoPlace(f"{error.filename or 'TMPDIR'}: {error.strerror or error}") from None
        self._received = bytearray()
        try:
            with open(self.scratch / "log", "wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    cwd=self.scratch,
                    env=environment(self.scratch),
                    process_group=0,
                )
        except OSError as error:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise NoPlace(f"{error.filename or self.scratch}: {error.strerror or error}") from None
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self.pid = self._process.pid
        self._requests, self.replies = self._process.stdin, self._process.stdout
        self.used = time.monotonic()
        with contextlib.suppress(OSError):  # a worker that is dead already is noticed when it does not answer
            self.send({"path": search_path(), "idle_seconds": IDLE_SECONDS})

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        data = memoryview(len(body).to_bytes(4, "little") + body)
        while data:
            data = data[self._requests.write(data) :]

    def receive(self) -> dict[str, Any] | None:
        """The worker's answer once it is all there; call when `replies` is readable. Raises WorkerDied."""
        chunk = os.read(self.replies.fileno(), 1 << 20)
        if not chunk:
            raise WorkerDied(self._last_words())
        self._received += chunk
        end = 4 + int.from_bytes(self._received[:4], "little")
        if len(self._received) < max(end, 5):
            return None
        answer = json.loads(bytes(self._received[4:end]))
        del self._received[:end]
        self.used = time.monotonic()
        return answer

    def _last_words(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the compiler closed its output"
        how = f"the compiler ended with status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"the compiler crashed ({signal.Signals(-status).name})"
        with contextlib.suppress(OSError):
            lines = (self.scratch / "log").read_text(errors="replace").splitlines()
            telling = [line.strip() for line in lines if "error" in line.lower()]
            if telling:
                how += f": {telling[0][:300]}"
        return how

    def fresh(self) -> bool:
        return time.monotonic() - self.used < _REUSE_SECONDS and self._process.poll() is None

    def leave(self) -> None:
        """Let go of a worker that belongs to another process."""
        self._process.returncode = 0
        self._requests.close()
        self.replies.close()

    def kill(self) -> None:
        """End the worker and all it runs, and take its files away."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._requests.close()
        self.replies.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


class WorkerPool:
    """Workers waiting for jobs. Any number of threads may call `run` at once: each call has its own workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def run(
        self, jobs: Sequence[dict[str, Any]], workers: int, environment: Environment = apart
    ) -> Generator[tuple[int, dict[str, Any] | WorkerDied], None, None]:
        """Give each job to a worker of such an environment, and yield its index and its answer as they come.

        A job whose worker died has WorkerDied for an answer. Whoever stops iterating, by an exception too, ends the
        workers that are still busy. Raises NoPlace where no worker can work.
        """
        waiting = list(range(len(jobs)))[::-1]
        busy: dict[_Worker, int] = {}
        with selectors.DefaultSelector() as ready:
            try:
                while waiting or busy:
                    while waiting and len(busy) < max(workers, 1):
                        worker = self._take(environment)
                        index = waiting.pop()
                        busy[worker] = index
                        ready.register(worker.replies, selectors.EVENT_READ, worker)
                        with contextlib.suppress(OSError):  # dead: its closed output says so below
                            worker.send(jobs[index])
                    for key, _ in ready.select():
                        worker = key.data
                        try:
                            answer: dict[str, Any] | WorkerDied | None = worker.receive()
                        except WorkerDied as died:
                            answer = died
                        if answer is None:
                            continue
                        ready.unregister(worker.replies)
                        index = busy.pop(worker)
                        if isinstance(answer, WorkerDied):
                            worker.kill()
                            if problem := place_at_fault(answer, Path(tempfile.gettempdir())):
                                raise NoPlace(problem)
                        elif "place" in answer:
                            worker.kill()
                            raise NoPlace(answer["place"])
                        else:
                            with self._lock:
                                self._idle.append(worker)
                        yield index, answer
            finally:
                for worker in busy:
                    worker.kill()

    def _take(self, environment: Environment) -> _Worker:
        wanted = environment(_ANY)
        with self._lock:
            for worker in [w for w in self._idle if not w.fresh()]:
                self._idle.remove(worker)
                worker.kill()
            for worker in self._idle:
                if worker.environment == wanted:
                    self._idle.remove(worker)
                    return worker
        return _Worker(environment)

    def close(self) -> None:
        """End the idle workers."""
        with self._lock:
            for worker in self._idle:
                worker.kill()
            self._idle = []

    def _forget(self) -> None:
        """In a forked child: the workers are the parent's."""
        self._lock = threading.Lock()
        for worker in self._idle:
            worker.leave()
        self._idle = []


POOL = WorkerPool()
