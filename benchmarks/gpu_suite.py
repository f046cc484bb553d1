"""The whole GPU session in one command: python -m benchmarks.gpu_suite [--rehearse] [--budget SECONDS] [--out DIR]

First correctness (every kernel against float64 NumPy), then times (tricnn fused, unfused, PyTorch eager and
torch.compile), then each kernel's share, then the tiles that `tricnn tune` finds; suite.py (`make bench`) is about
times alone. The most important come first. Every case is a process of its own with a time limit: one that fails or
hangs is reported, the rest go on. What is known so far is written after every case, to one JSON file in --out ($OUT,
or benchmarks/results). Verification runs several cases at once; while a case is timed nothing else runs.

--rehearse runs the same code on tiny sizes, on the CPU under Triton's interpreter: it finds the typing errors.
Exit status: 0 if every case that ran passed, 1 if one did not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Any

from benchmarks.gpu_case import NEEDED
from benchmarks.part import Case

HERE = Path(__file__).resolve().parent
DTYPES = ("fp32", "tf32", "fp16", "bf16")
NETWORKS = ("lenet", "lenet_sigmoid", "resnet18", "resnet50", "googlenet_bn", "vgg11_bn", "alexnet_2012")
TAIL = 1500  # characters of a failing case's output that are kept


# --- what is to be done, most important first ------------------------------------------------------------------


def the_cases(rehearse: bool) -> list[Case]:
    """Each case: its name, kind, time limit and arguments. ``alone`` cases are timed, with nothing beside them."""
    if rehearse:
        return list(_rehearsal())
    return list(_session())


def verify_case(network: str, mode: str, dtypes: tuple[str, ...], batches: tuple[int, ...], limit: int = 120) -> Case:
    name = f"verify {network} {mode} {' '.join(dtypes)}, batch {', '.join(map(str, batches))}"
    return dict(name=name, kind="verify", network=network, mode=mode, dtypes=dtypes, batches=batches, limit=limit)


def timed_case(kind: str, network: str, mode: str, dtype: str, batch: int, limit: int, **more: Any) -> Case:
    name = f"{kind} {network} {mode} {dtype}, batch {batch}{'' if more.get('fuse', True) else ', unfused'}"
    return dict(name=name, kind=kind, network=network, mode=mode, dtype=dtype, batch=batch, limit=limit, **more)


def warm_case(network: str, mode: str, dtype: str, batch: int) -> Case:
    """Compile a timed case's kernels beforehand, so that its time is for timing."""
    return timed_case("warm", network, mode, dtype, batch, 150)


def _session() -> Iterator[Case]:
    timed = [
        ("lenet", "train", "bf16", 256), ("resnet50", "train", "bf16", 256), ("resnet18", "train", "bf16", 256),
        ("resnet50", "infer", "bf16", 256), ("resnet50", "infer", "fp16", 1), ("lenet", "train", "fp32", 256),
        ("resnet18", "train", "tf32", 128), ("googlenet_bn", "train", "bf16", 128), ("lenet", "infer", "bf16", 256),
        ("vgg11_bn", "train", "bf16", 64), ("resnet50", "train", "bf16", 32), ("resnet18", "infer", "fp16", 8),
        ("alexnet_2012", "train", "bf16", 256),
    ]  # fmt: skip
    yield verify_case("lenet", "train", ("bf16",), (8,))
    yield timed_case("bench", *timed[0], 90)
    yield verify_case("resnet18", "train", ("bf16", "fp32"), (3,), 150)
    for network, mode, dtype, batch in timed[1:3]:
        yield warm_case(network, mode, dtype, batch)
    yield timed_case("bench", *timed[1], 150)
    yield timed_case("profile", *timed[1], 60)
    for network in ("lenet", "lenet_sigmoid"):
        yield verify_case(network, "train", DTYPES, (1, 5, 64))
        yield verify_case(network, "infer", DTYPES, (1, 7))
    for network in ("resnet18", "resnet50", "googlenet_bn"):
        yield verify_case(network, "train", ("fp32", "tf32", "fp16", "bf16"), (3,), 150)
        yield verify_case(network, "infer", DTYPES, (5,), 150)
    for network, mode, dtype, batch in timed[3:6]:
        yield warm_case(network, mode, dtype, batch)
    yield dict(name="pytest -m gpu", kind="pytest", limit=150)
    for row in timed[2:7]:
        yield timed_case("bench", *row, 100)
    for network in ("vgg11_bn", "alexnet_2012"):
        yield verify_case(network, "train", DTYPES, (3,), 120)
        yield verify_case(network, "infer", DTYPES, (2,), 120)
    for row in timed[7:]:
        yield timed_case("bench", *row, 100)
    yield timed_case("tune", *timed[1], 120)
    yield timed_case("tune", *timed[0], 60)


def _rehearsal() -> Iterator[Case]:
    """Every kind of case on a small LeNet; then, if there is time, the real one and a batch norm."""
    yield timed_case("bench", "rehearsal", "train", "bf16", 1, 90)
    yield verify_case("rehearsal", "train", ("bf16",), (1,), 60)
    yield dict(name="a case that fails", kind="fail", limit=60, expected="failed")
    yield dict(name="a case that hangs", kind="hang", limit=15, expected="timed out")
    yield warm_case("rehearsal", "infer", "fp32", 1)
    yield timed_case("profile", "rehearsal", "infer", "fp32", 1, 60)
    yield timed_case("tune", "rehearsal", "infer", "fp32", 1, 60)
    yield dict(name="pytest -m gpu", kind="pytest", limit=60)
    yield timed_case("bench", "rehearsal", "infer", "fp32", 1, 60)
    yield verify_case("lenet", "train", ("bf16",), (2,), 60)
    yield verify_case("resnet18", "infer", ("fp16",), (1,), 60)


# --- the process that starts the others -------------------------------------------------------------------------


class Session:
    """``title`` begins the name of the file; ``on_write`` is shown the file's content after every case."""

    def __init__(
        self, options: argparse.Namespace, cases: list[Case], title: str = "gpu",
        on_write: Callable[[dict[str, Any], Path], None] = lambda found, path: None,
    ):  # fmt: skip
        self.options, self.cases, self.on_write = options, cases, on_write
        self.began = time.monotonic()
        self.folder = results_folder(options)
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.path = self.folder / f"{'rehearsal' if options.rehearse else title}-{stamp}.json"
        self.parts = self.folder / f".{self.path.stem}"
        self.parts.mkdir(exist_ok=True)
        self.running: dict[int, tuple[subprocess.Popen[bytes], float, float]] = {}
        self.rows: list[dict[str, Any]] = [{"name": c["name"], "status": "not reached"} for c in cases]
        self.about: dict[str, Any] = {"date": stamp, "commit": commit(), "rehearsal": options.rehearse}

    def left(self) -> float:
        return self.options.budget - (time.monotonic() - self.began)

    def run(self) -> int:
        waiting = list(range(len(self.cases)))
        try:
            while waiting or self.running:
                while waiting and self.may_start(waiting[0]) and self.left() > 5:
                    self.start(waiting.pop(0))
                if self.left() <= 5:
                    waiting.clear()
                time.sleep(0.05)
                for i in list(self.running):
                    self.look(i)
        finally:
            for process, _, _ in self.running.values():
                end(process)
            self.write()
        from tricnn.ir.wording import plural

        for leftover in self.parts.iterdir():
            leftover.unlink()
        self.parts.rmdir()
        bad = [r["name"] for r in self.rows if r["status"] not in ("passed", "not finished", "not reached")]
        skipped = sum(r["status"] == "not reached" for r in self.rows)
        print(f"{plural(len(self.rows) - skipped, 'case')} ran, {len(bad)} failed, {skipped} not reached; {self.path}")
        for name in bad:
            print(f"  failed: {name}")
        if "pages" in self.about:
            print(f"  pages {self.about['pages']}")
        return 1 if bad else 0

    def may_start(self, i: int) -> bool:
        alone = self.alone(i) or any(self.alone(j) for j in self.running)
        return not self.running if alone else len(self.running) < self.options.jobs

    def alone(self, i: int) -> bool:
        return self.cases[i]["kind"] in ("warm", "bench", "profile", "tune")

    def start(self, i: int) -> None:
        limit = min(self.cases[i]["limit"], self.left() - 3)
        environment = {**os.environ, "TRITON_INTERPRET": "1" if self.options.rehearse else "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        cores = sorted(os.sched_getaffinity(0))
        share = cores if self.alone(i) else cores[i % self.options.jobs :: self.options.jobs] or cores
        # Inductor starts a pool of compile processes, which a process killed for its time would leave behind
        command = [sys.executable, "-m", "benchmarks.gpu_case", "--case", json.dumps(self.cases[i])]
        command += ["--part", str(self.parts / f"{i}.json")] + ["--rehearse"] * self.options.rehearse
        with open(self.parts / f"{i}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=HERE.parent, env=environment,
                start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, share),
            )  # fmt: skip
        now = time.monotonic()
        began = self.running[i][1] if i in self.running else now
        self.running[i] = (process, began, min(began + self.cases[i]["limit"], now + limit))

    def look(self, i: int) -> None:
        process, began, until = self.running[i]
        status = process.poll()
        if status is None and time.monotonic() < until:
            return
        if status is None:
            end(process)
        part = self.parts / f"{i}.json"
        found = json.loads(part.read_text()) if part.exists() else {}
        log = (self.parts / f"{i}.log").read_text(errors="replace")[-TAIL:]
        cut = "timed out" if until >= began + self.cases[i]["limit"] else "not finished"  # the budget was
        what = cut if status is None else found.pop("status", None) if status == 0 else "failed"
        if status not in (None, 0) and found.get("doing") and time.monotonic() < until - 5:
            # A bad address ends a process's use of the GPU for good: note the contender, do the others in a new one
            found["contenders"].append({"name": found.pop("doing"), "error": log.strip()[-300:]})
            part.write_text(json.dumps(found))
            self.start(i)
            return
        del self.running[i]
        expected = self.cases[i].get("expected")
        asked = {key: x for key, x in self.cases[i].items() if key in ("network", "mode", "dtype", "batch", "fuse")}
        row = {
            "name": self.cases[i]["name"],
            "kind": self.cases[i]["kind"],
            **asked,
            "status": what or "failed",
            **found,
        }
        if expected is not None:
            row["status"] = "passed" if row["status"] == expected else f"{row['status']}, not {expected}"
        row["seconds"] = round(time.monotonic() - began, 1)
        if row["status"] != "passed":
            row["error"] = found.get("error") or log
        self.about.update(row.pop("about", {}))
        self.rows[i] = row
        self.write()
        print(f"{time.monotonic() - self.began:5.0f} s  {row['status']:9}  {row['name']}{summary(row)}", flush=True)

    def write(self) -> None:
        elapsed = round(time.monotonic() - self.began, 1)
        found = {**self.about, "elapsed": elapsed, "cases": self.rows}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(found, indent=1))
        fresh.replace(self.path)
        try:
            self.on_write(found, self.path)
        except Exception as error:  # pages can be written again, from what is measured
            self.about["pages"] = f"not written whole: {type(error).__name__}: {error}"


def summary(row: dict[str, Any]) -> str:
    from tricnn.ir.wording import plural

    if row["status"] != "passed":
        return "\n         " + row.get("error", "").strip().splitlines()[-1][:200] if row.get("error") else ""
    if row["kind"] == "verify":
        return f": {plural(row['checks'], 'value')}, worst at {row['worst']:.2f} of its tolerance"
    lines = []
    for c in row.get("contenders", []):
        if "error" in c:
            lines.append(f"{c['name']:28} {(c['error'].strip() or 'ended').splitlines()[-1][:100]}")
        else:
            speed = f"{c['gigabytes_per_second']:8.0f} GB/s" if "gigabytes_per_second" in c else ""
            lines.append(
                f"{c['name']:28} {c['milliseconds']:9.3f} ms {c['images_per_second']:10.0f} images/s "
                f"{c.get('ratio', 0):6.3f} of eager {speed}"
            )
    for k in row.get("kernels", [])[:12]:
        library = f", cuDNN {k['cudnn_milliseconds']:.4f} ms" if "cudnn_milliseconds" in k else ""
        share = f"{k['percent']:5.1f} %, {k['share_of_limit']:.0%} of the limit{library}"
        lines.append(f"{k['milliseconds']:9.4f} ms {share}  {k['name']}")
    if row.get("against_cudnn"):
        lines.append("cuDNN's time / ours: " + ", ".join(f"{n} {x:.2f}" for n, x in row["against_cudnn"].items()))
    for k in row.get("tuned", []):
        if k["winner"]:
            lines.append(f"{k['kind']} {k['shape']}: {k['us'][k['rule']]:.1f} us -> {k['us'][k['winner']]:.1f} us")
    return "".join("\n         " + line for line in lines)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a case and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def commit() -> str:
    command = ["git", "-C", str(HERE.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def results_folder(options: argparse.Namespace) -> Path:
    return Path(options.out or os.environ.get("OUT") or HERE / "results")


def refusal(options: argparse.Namespace, cases: list[Case], out: Path) -> str | None:
    """What is wrong with a command line, if anything is. The folder for results is there afterwards."""
    if not cases:
        return f"no case's name contains {options.only!r}; --list prints them"
    if options.budget is not None and not 0 < options.budget < float("inf"):
        return f"--budget {options.budget:g} is not accepted; it is a number of seconds above 0"
    if options.jobs is not None and options.jobs < 1:
        return f"--jobs {options.jobs} is not accepted; it is at least 1"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{out}: cannot be written ({error.strerror})"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, under Triton's interpreter")
    parser.add_argument("--budget", type=float, help="seconds in all (520; 170 to rehearse)")
    parser.add_argument("--out", metavar="DIR", help="where the JSON goes ($OUT, or benchmarks/results)")
    parser.add_argument("--jobs", type=int, help="untimed cases at once (half the cores, at most 8)")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    options = parser.parse_args()
    missing = [package for package in NEEDED if util.find_spec(package) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    cases = [c for c in the_cases(options.rehearse) if not options.only or options.only in c["name"]]
    if options.list:
        print("\n".join(c["name"] for c in cases))
        return 0
    if wrong := refusal(options, cases, results_folder(options)):
        print(wrong, file=sys.stderr)
        return 2
    options.budget = options.budget or (170.0 if options.rehearse else 520.0)
    cores = len(os.sched_getaffinity(0))
    options.jobs = options.jobs or max(1, min(8, cores if options.rehearse else cores // 2))
    return Session(options, cases).run()


if __name__ == "__main__":
    sys.exit(main())
