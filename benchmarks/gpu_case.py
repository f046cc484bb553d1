"""One case of the GPU session (gpu_suite.py), in a process of its own: verify, time, profile or tune one network.

    python -m benchmarks.gpu_case --case JSON --part FILE [--rehearse]

What it has found so far is in FILE at any time, so whoever started it loses nothing when it hangs or dies.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEEDED = ("torch", "triton", "numpy", "networkx", "rich", "safetensors")
Case = dict[str, Any]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True, help="what to do, as gpu_suite.py has it")
    parser.add_argument("--part", required=True, help="the file for what is found")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, under Triton's interpreter")
    options = parser.parse_args()
    run_case(json.loads(options.case), Part(options.part), options.rehearse)


if __name__ == "__main__":
    main()
