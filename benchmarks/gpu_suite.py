"""The whole GPU session in one command: python -m benchmarks.gpu_suite [--rehearse] [--budget SECONDS] [--out DIR]

First correctness (every kernel against float64 NumPy), then times (tricnn fused, unfused, PyTorch eager and
torch.compile, one by one and as CUDA graphs), then each kernel's share, then a sweep of launch options for the slowest.
The most important come first. Every case is a process of its own with a time limit: one that fails or hangs is
reported, the rest go on. What is known so far is written after every case, to one JSON file in --out ($OUT, or
benchmarks/results). Verification runs several cases at once; while a case is timed nothing else runs.

--rehearse runs the same code on tiny sizes, on the CPU under Triton's interpreter: it finds the typing errors.
Exit status: 0 if every case that ran passed, 1 if one did not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEEDED = ("torch", "triton", "numpy", "networkx", "rich", "safetensors")
DTYPES = ("fp32", "tf32", "fp16", "bf16")
NETWORKS = ("lenet", "lenet_sigmoid", "resnet18", "resnet50", "googlenet_bn", "vgg11_bn", "alexnet_2012")
TAIL = 1500  # characters of a failing case's output that are kept
Case = dict[str, Any]


# --- what is to be done, most important first ------------------------------------------------------------------


def the_cases(rehearse: bool) -> list[Case]:
    """Each case: its name, kind, time limit and arguments. ``alone`` cases are timed, with nothing beside them."""
    if rehearse:
        return list(_rehearsal())
    return list(_session())


def _verify(network: str, mode: str, dtypes: tuple[str, ...], batches: tuple[int, ...], limit: int = 120) -> Case:
    name = f"verify {network} {mode} {' '.join(dtypes)}, batch {', '.join(map(str, batches))}"
    return dict(name=name, kind="verify", network=network, mode=mode, dtypes=dtypes, batches=batches, limit=limit)


def _bench(kind: str, network: str, mode: str, dtype: str, batch: int, limit: int, **more: Any) -> Case:
    name = f"{kind} {network} {mode} {dtype}, batch {batch}"
    return dict(name=name, kind=kind, network=network, mode=mode, dtype=dtype, batch=batch, limit=limit, **more)


def _warm(network: str, mode: str, dtype: str, batch: int, parts: int) -> Iterator[Case]:
    """Compile a timed case's kernels beforehand, on several cores: the cache on disk then has them."""
    for part in range(parts):
        case = _bench("warm", network, mode, dtype, batch, 150, part=part, parts=parts)
        yield {**case, "name": f"{case['name']}, part {part + 1} of {parts}"}


def _session() -> Iterator[Case]:
    timed = [
        ("lenet", "train", "bf16", 256), ("resnet50", "train", "bf16", 256), ("resnet18", "train", "bf16", 256),
        ("resnet50", "infer", "bf16", 256), ("resnet50", "infer", "fp16", 1), ("lenet", "train", "fp32", 256),
        ("resnet18", "train", "tf32", 128), ("googlenet_bn", "train", "bf16", 128), ("lenet", "infer", "bf16", 256),
        ("vgg11_bn", "train", "bf16", 64), ("resnet50", "train", "bf16", 32), ("resnet18", "infer", "fp16", 8),
        ("alexnet_2012", "train", "bf16", 256),
    ]  # fmt: skip
    yield _verify("lenet", "train", ("bf16",), (8,))
    yield _bench("bench", *timed[0], 90)
    yield _verify("resnet18", "train", ("bf16", "fp32"), (3,), 150)
    for network, mode, dtype, batch in timed[1:3]:
        yield from _warm(network, mode, dtype, batch, 6)
    yield _bench("bench", *timed[1], 150)
    yield _bench("profile", *timed[1], 60)
    for network in ("lenet", "lenet_sigmoid"):
        yield _verify(network, "train", DTYPES, (1, 5, 64))
        yield _verify(network, "infer", DTYPES, (1, 7))
    for network in ("resnet18", "resnet50", "googlenet_bn"):
        yield _verify(network, "train", ("fp32", "tf32", "fp16", "bf16"), (3,), 150)
        yield _verify(network, "infer", DTYPES, (5,), 150)
    for network, mode, dtype, batch in timed[3:6]:
        yield from _warm(network, mode, dtype, batch, 3)
    yield dict(name="pytest -m gpu", kind="pytest", limit=150)
    for row in timed[2:7]:
        yield _bench("bench", *row, 100)
    for network in ("vgg11_bn", "alexnet_2012"):
        yield _verify(network, "train", DTYPES, (3,), 120)
        yield _verify(network, "infer", DTYPES, (2,), 120)
    for row in timed[7:]:
        yield _bench("bench", *row, 100)
    yield _bench("tune", *timed[1], 120)
    yield _bench("tune", *timed[0], 60)


def _rehearsal() -> Iterator[Case]:
    """Every kind of case on a small LeNet; then, if there is time, the real one and a batch norm."""
    yield _bench("bench", "rehearsal", "train", "bf16", 1, 90)
    yield _verify("rehearsal", "train", ("bf16",), (1,), 60)
    yield dict(name="a case that fails", kind="fail", limit=60, expected="failed")
    yield dict(name="a case that hangs", kind="hang", limit=15, expected="timed out")
    yield from _warm("rehearsal", "infer", "fp32", 1, 2)
    yield _bench("profile", "rehearsal", "infer", "fp32", 1, 60)
    yield _bench("tune", "rehearsal", "infer", "fp32", 1, 60)
    yield dict(name="pytest -m gpu", kind="pytest", limit=60)
    yield _bench("bench", "rehearsal", "infer", "fp32", 1, 60)
    yield _verify("lenet", "train", ("bf16",), (2,), 60)
    yield _verify("resnet18", "infer", ("fp16",), (1,), 60)


# --- the process that starts the others -------------------------------------------------------------------------


class Session:
    def __init__(self, options: argparse.Namespace, cases: list[Case]):
        self.options, self.cases = options, cases
        self.began = time.monotonic()
        self.folder = Path(options.out or os.environ.get("OUT") or HERE / "results")
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.path = self.folder / f"{'rehearsal' if options.rehearse else 'gpu'}-{stamp}.json"
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
        for leftover in self.parts.iterdir():
            leftover.unlink()
        self.parts.rmdir()
        bad = [r["name"] for r in self.rows if r["status"] not in ("passed", "not finished", "not reached")]
        skipped = sum(r["status"] == "not reached" for r in self.rows)
        print(f"{len(self.rows) - skipped} cases ran, {len(bad)} failed, {skipped} not reached; {self.path}")
        for name in bad:
            print(f"  failed: {name}")
        return 1 if bad else 0

    def may_start(self, i: int) -> bool:
        alone = self.alone(i) or any(self.alone(j) for j in self.running)
        return not self.running if alone else len(self.running) < self.options.jobs

    def alone(self, i: int) -> bool:
        return self.cases[i]["kind"] in ("bench", "profile", "tune")

    def start(self, i: int) -> None:
        limit = min(self.cases[i]["limit"], self.left() - 3)
        environment = {**os.environ, "TRITON_INTERPRET": "1" if self.options.rehearse else "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        if self.options.jobs > 1 and not self.alone(i):
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // self.options.jobs)))
        # Inductor starts a pool of compile processes, which a process killed for its time would leave behind
        command = [sys.executable, "-m", "benchmarks.gpu_suite", "--case", json.dumps(self.cases[i])]
        command += ["--part", str(self.parts / f"{i}.json")] + ["--rehearse"] * self.options.rehearse
        with open(self.parts / f"{i}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=HERE.parent, env=environment,
                start_new_session=True,
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
        row = {"name": self.cases[i]["name"], "kind": self.cases[i]["kind"], "status": what or "failed", **found}
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
        text = json.dumps({**self.about, "elapsed": elapsed, "cases": self.rows}, indent=1)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)


def summary(row: dict[str, Any]) -> str:
    if row["status"] != "passed":
        return "\n         " + row.get("error", "").strip().splitlines()[-1][:200] if row.get("error") else ""
    if row["kind"] == "verify":
        return f": {row['checks']} values, worst at {row['worst']:.2f} of its tolerance"
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
    lines += [f"{k['milliseconds']:9.4f} ms {k['percent']:5.1f} %  {k['name']}" for k in row.get("kernels", [])[:12]]
    lines += [f"{k['name']}: {k['milliseconds']:.4f} ms -> {k['best']}" for k in row.get("tuned", [])]
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


# --- one case, in its own process --------------------------------------------------------------------------------


class Part:
    """What a case has found so far, on disk."""

    def __init__(self, path: str):
        self.path = Path(path)
        self.found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def write(self, **found: Any) -> None:
        self.found.update(found)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.found))
        fresh.replace(self.path)


def run_case(case: Case, part: Part, rehearse: bool) -> None:
    part.write(about=about(rehearse))
    {"verify": verify, "bench": bench, "warm": warm, "profile": profile, "tune": tune, "pytest": run_pytest,
     "fail": fail, "hang": hang}[case["kind"]](case, part, rehearse)  # fmt: skip


def about(rehearse: bool) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version()}
    for package in NEEDED:
        versions[package] = metadata.version(package)
    found: dict[str, Any] = {"versions": versions, "device": platform.processor() or "CPU"}
    if not rehearse:
        if not torch.cuda.is_available():
            raise SystemExit("no GPU that this PyTorch build supports; --rehearse runs on the CPU")
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        found |= {"capability": list(torch.cuda.get_device_capability(0)), "driver": driver()}
    return found


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def declared(network: str, small: bool) -> Any:
    import tricnn

    if network == "rehearsal":
        return tricnn.graphs.lenet(input_shape=(1, 16, 16), width=1 / 2)
    return getattr(tricnn.graphs, network)(**(tricnn.graphs.SMALL[network] if small else {}))


def verify(case: Case, part: Part, rehearse: bool) -> None:
    from tricnn.runtime.verify import verify as check_all

    graph = declared(case["network"], small=True)
    total, worst, wrong = 0, 0.0, []
    seed = 0
    for dtype in case["dtypes"]:
        for batch in case["batches"]:
            seed += 1
            for fuse in (True, False) if batch == case["batches"][0] and not rehearse else (True,):
                checks = check_all(graph, mode=case["mode"], batch=batch, dtype=dtype, seed=seed, fuse=fuse)
                total += len(checks)
                worst = max([worst, *(c.error / c.tolerance for c in checks if c.ok and c.tolerance)])
                wrong += [
                    f"{dtype}, batch {batch}, {'fused' if fuse else 'unfused'}: {c.kernel} {c.value}: error "
                    f"{c.error:.3g}, accepted {c.tolerance:.3g}"
                    for c in checks if not c.ok
                ]  # fmt: skip
            part.write(checks=total, worst=worst, wrong=wrong[:20], status="failed" if wrong else "passed")
    if wrong:
        part.write(error="\n".join(wrong[:5]))


class Ours:
    """A compiled model whose inputs lie on the device already."""

    def __init__(self, case: Case, rehearse: bool, fuse: bool = True):
        import tricnn

        self.batch = case["batch"]
        graph = declared(case["network"], rehearse)
        self.model = tricnn.compile(graph, case["mode"], self.batch, case["dtype"], "triton", fuse=fuse)
        self.executor, self.program = self.model.executor, self.model.program
        self.tensors = self.executor.bind(self.batch)
        images, labels = random_batch(graph, self.batch)
        first, *others = self.model.plan.graph.inputs
        self.executor.put(self.tensors, first.name, images)
        for node in others:
            self.executor.put(self.tensors, node.name, labels)

    def step(self) -> None:
        self.executor.module.step(self.tensors, self.batch, 0, 0)

    def launch(self, launch: Any, **changed: int) -> None:
        """One of the step's launches by itself."""
        from tricnn.codegen.program import evaluate

        function = next(f for f in self.program.functions if f.name == launch.function)
        options = {"num_warps": function.num_warps, "num_stages": function.num_stages, **changed}
        scalars = {"N": self.batch, "seed_lo": 0, "seed_hi": 0, "step": 0}
        arguments = [scalars[a] if a in scalars else self.tensors[a] for a in launch.arguments]
        grid = tuple(evaluate(g, self.batch) for g in launch.grid)
        getattr(self.executor.module, launch.function)[grid](*arguments, **options)


def random_batch(graph: Any, batch: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    n, c, h, w = graph.types[graph.inputs[0].name].at(batch)
    images = rng.standard_normal((n, h, w, c), dtype=np.float32).transpose(0, 3, 1, 2)
    return images, rng.integers(0, graph.types[graph.outputs[0].value].channels, batch)


def timed(work: Callable[[], Any], rehearse: bool, seconds: float = 1.5) -> list[float]:
    """Milliseconds per call, on the device's own clock, after warming up."""
    samples: list[float] = []
    if rehearse:
        start = time.perf_counter()
        work()
        return [(time.perf_counter() - start) * 1e3]
    import torch

    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    once = max(time.perf_counter() - began, 1e-5)
    repeats, rounds = max(1, min(50, int(0.02 / once))), max(5, min(50, int(seconds / once)))
    for _ in range(rounds):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        stop.record()
        torch.cuda.synchronize()
        samples.append(start.elapsed_time(stop) / repeats)
        if time.perf_counter() - began > seconds:
            break
    return samples


def captured(work: Callable[[], Any], rehearse: bool) -> Callable[[], Any]:
    """The same launches, replayed as one CUDA graph: what the device needs when no time is lost in Python."""
    if rehearse:
        return work
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def bench(case: Case, part: Part, rehearse: bool) -> None:
    import torch

    import tricnn
    from tricnn.cli.pytorch_network import step

    device = "cpu" if rehearse else "cuda"
    batch = case["batch"]
    graph = declared(case["network"], rehearse)
    kept: dict[str, Any] = {}

    def ours(fuse: bool) -> Callable[[], Any]:
        made = kept["ours"] = Ours(case, rehearse, fuse)
        return made.step

    def pytorch(wrap: Callable[[Any], Any] = lambda network: network) -> Callable[[], Any]:
        state = tricnn.compile(graph, case["mode"], batch, "fp32", "numpy").state_dict()
        return step(graph, case["mode"], state, *random_batch(graph, batch), case["dtype"], device, wrap)

    def inductor(network: Any) -> Any:
        return torch.compile(network, backend="eager") if rehearse else torch.compile(network)

    contenders: dict[str, Callable[[], Callable[[], Any]]] = {
        "PyTorch eager": pytorch,
        "tricnn fused": lambda: ours(True),
        "tricnn fused, CUDA graph": lambda: captured(kept["work"], rehearse),
        "torch.compile": lambda: pytorch(inductor),
        "torch.compile, CUDA graph": lambda: captured(kept["work"], rehearse),
        "tricnn unfused": lambda: ours(False),
        "tricnn unfused, CUDA graph": lambda: captured(kept["work"], rehearse),
        "PyTorch eager, CUDA graph": lambda: captured(pytorch(), rehearse),
    }
    rows = part.found.get("contenders", [])
    known = {r["name"] for r in rows}
    for name, make in contenders.items():
        if name in known:
            continue
        plain = name.removesuffix(", CUDA graph")
        if name != plain and plain != "PyTorch eager" and kept.get("for") != plain:
            rows.append({"name": name, "error": f"{plain} did not run in this process"})
            continue
        part.write(contenders=rows, doing=name)
        if name == plain or plain == "PyTorch eager":
            kept.clear()
            gc.collect()
            if not rehearse:
                torch.cuda.empty_cache()
        try:
            work = make()
            samples = timed(work, rehearse)
            if name == plain:
                kept |= {"work": work, "for": plain}
            row = row_of(name, samples, batch)
            if "ours" in kept:
                row |= figures(kept["ours"].program, batch, row["milliseconds"])
            rows.append(row)
        except Exception as error:
            if "CUDA error" in str(error) or "illegal" in str(error):
                raise  # nothing else will run in this process
            rows.append({"name": name, "error": traceback.format_exc()[-600:]})
        eager = next((r.get("milliseconds") for r in rows if r["name"] == "PyTorch eager"), None)
        for row in rows:
            if eager and "milliseconds" in row:
                row["ratio"] = row["milliseconds"] / eager
        part.write(contenders=rows)
    part.found.pop("doing", None)
    failed = [r["name"] for r in rows if "error" in r and r["name"].startswith("tricnn")]
    if failed:
        part.write(error="; ".join(failed) + ": " + next(r["error"] for r in rows if r["name"] == failed[0])[-300:])
    part.write(status="failed" if failed else "passed")


def row_of(name: str, samples: list[float], batch: int) -> dict[str, Any]:
    median = statistics.median(samples)
    return {
        "name": name,
        "milliseconds": median,
        "fastest": min(samples),
        "slowest": max(samples),
        "rounds": len(samples),
        "images_per_second": batch / median * 1e3,
    }


def figures(program: Any, batch: int, milliseconds: float) -> dict[str, Any]:
    moved, flops = program.dram_bytes(batch), program.flops(batch)
    return {
        "launches": len(program.launches),
        "dram_bytes": moved,
        "flops": flops,
        "gigabytes_per_second": moved / milliseconds * 1e-6,
        "teraflops": flops / milliseconds * 1e-9,
    }


def warm(case: Case, part: Part, rehearse: bool) -> None:
    """Launch a share of the kernels once."""
    for fuse in (True, False):
        ours = Ours(case, rehearse, fuse)
        first = {launch.function: launch for launch in reversed(ours.program.launches)}
        for launch in list(first.values())[case["part"] :: case["parts"]]:
            ours.launch(launch)
        part.write(status="passed", compiled=part.found.get("compiled", 0) + len(first) // case["parts"])
        del ours
        gc.collect()
    if not rehearse:
        import torch

        torch.cuda.synchronize()


def profile(case: Case, part: Part, rehearse: bool) -> None:
    """Every launch by itself: where the step's time goes, and how near each kernel is to the device's limits."""
    ours = Ours(case, rehearse)
    ours.step()
    rows = []
    for launch in ours.program.launches:
        median = statistics.median(timed(partial(ours.launch, launch), rehearse, 0.05))
        moved, flops = ours.program.launch_bytes(launch, ours.batch), launch.flops * ours.batch
        rows.append(
            {
                "name": launch.function,
                "kind": launch.kind,
                "layers": list(launch.layers),
                "milliseconds": median,
                "gigabytes_per_second": moved / median * 1e-6,
                "teraflops": flops / median * 1e-9,
            }
        )
    total = sum(r["milliseconds"] for r in rows)
    for row in rows:
        row["percent"] = 100 * row["milliseconds"] / total
    part.write(kernels=sorted(rows, key=lambda r: -r["milliseconds"]), status="passed")


def tune(case: Case, part: Part, rehearse: bool) -> None:
    """Warps and stages of the slowest kernels."""
    ours = Ours(case, rehearse)
    ours.step()
    times = {
        i: statistics.median(timed(partial(ours.launch, launch), rehearse, 0.03))
        for i, launch in enumerate(ours.program.launches)
    }
    tuned: list[dict[str, Any]] = []
    for i in sorted(times, key=lambda i: -times[i])[: 1 if rehearse else 8]:
        launch = ours.program.launches[i]
        tried = {}
        for warps in (4,) if rehearse else (4, 8):
            for stages in (2,) if rehearse else (2, 3, 4):
                key = f"{warps} warps, {stages} stages"
                options = {"num_warps": warps, "num_stages": stages}
                try:
                    ours.launch(launch, **options)
                    tried[key] = statistics.median(timed(partial(ours.launch, launch, **options), rehearse, 0.05))
                except Exception as error:
                    if "CUDA error" in str(error) or "illegal" in str(error):
                        raise
                    tried[key] = f"{type(error).__name__}: {str(error)[:100]}"
        numbers = {key: t for key, t in tried.items() if isinstance(t, float)}
        best = min(numbers, key=numbers.__getitem__) if numbers else "none ran"
        row = {"name": launch.function, "layers": list(launch.layers), "milliseconds": times[i], "tried": tried}
        tuned.append({**row, "best": f"{best}: {numbers[best]:.4f} ms" if numbers else best})
        part.write(tuned=tuned, status="passed")


def run_pytest(case: Case, part: Part, rehearse: bool) -> None:
    if util.find_spec("pytest") is None:
        part.write(status="passed", skipped="pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    status = subprocess.run(command, cwd=HERE.parent).returncode
    part.write(status="passed" if status == 0 else "failed", pytest_status=status)


def fail(case: Case, part: Part, rehearse: bool) -> None:
    raise RuntimeError("this failure was asked for")


def hang(case: Case, part: Part, rehearse: bool) -> None:
    time.sleep(3600)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, under Triton's interpreter")
    parser.add_argument("--budget", type=float, help="seconds in all (520; 170 to rehearse)")
    parser.add_argument("--out", metavar="DIR", help="where the JSON goes ($OUT, or benchmarks/results)")
    parser.add_argument("--jobs", type=int, help="untimed cases at once (half the cores, at most 8)")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        part = Part(options.part)
        run_case(json.loads(options.case), part, options.rehearse)
        return 0
    missing = [package for package in NEEDED if util.find_spec(package) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    cases = [c for c in the_cases(options.rehearse) if not options.only or options.only in c["name"]]
    if options.list:
        print("\n".join(c["name"] for c in cases))
        return 0
    options.budget = options.budget or (170.0 if options.rehearse else 520.0)
    cores = len(os.sched_getaffinity(0))
    options.jobs = options.jobs or max(1, min(8, cores if options.rehearse else cores // 2))
    return Session(options, cases).run()


if __name__ == "__main__":
    sys.exit(main())
