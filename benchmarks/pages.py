"""A session's results as people read them: Markdown and plots beside the JSON, written anew after every case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tricnn.machine.machines import COMMON, machine_of
from tricnn.report.figures import scaled, size
from tricnn.report.plots import bars, roofline

Found = Mapping[str, Any]
KERNELS_SHOWN = 40


def write_pages(found: Found, path: Path) -> list[Path]:
    """JSON at ``path``, ``.md`` beside it, and the plots that there is something for. Returns all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = path.with_suffix(".md")
    write_whole(path, json.dumps(found, indent=1) + "\n")
    write_whole(page, "\n".join(text(found)).strip() + "\n")  # plots may fail
    plots = list(draw(found, path))
    write_whole(page, "\n".join([*text(found), "", *(f"![{plot.stem}]({plot.name})" for plot in plots)]).strip() + "\n")
    return [path, page, *plots]


def write_whole(path: Path, content: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(content)
    os.replace(fresh, path)


def measured(found: Found, kind: str, key: str) -> list[dict[str, Any]]:
    """The cases of a kind that found something."""
    return [case for case in found.get("cases", []) if case.get("kind") == kind and case.get(key)]


def text(found: Found) -> Iterable[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    yield "# Benchmark"
    yield ""
    for label, value in (
        ("device", found.get("device")), ("driver", found.get("driver")), ("CUDA", found.get("cuda")),
        ("versions", versions), ("date", found.get("date")), ("commit", found.get("commit")),
    ):  # fmt: skip
        if value:
            yield f"- {label}: {value}"
    if found.get("rehearsal"):
        yield "- a rehearsal on the CPU: the times mean nothing"
    if found.get("predictions"):
        yield from _predictions(found["predictions"])
    for case in measured(found, "bench", "contenders"):
        yield from _contenders(case)
    for case in measured(found, "profile", "kernels"):
        yield from _kernels(case)
    others = [c for c in found.get("cases", []) if c["status"] != "passed"]
    if others:
        yield from ("", "## What did not pass or was not reached", "")
        for case in others:
            reason = case.get("error", "").strip().splitlines()
            yield f"- {case['name']}: {case['status']}{': ' + reason[-1][:200] if reason else ''}"


def table(columns: str, rows: Iterable[Iterable[Any]]) -> Iterable[str]:
    """``>`` before a column's name: figures, aligned to the right."""
    names = [c.strip() for c in columns.split("|")]
    yield "| " + " | ".join(name.removeprefix(">") for name in names) + " |"
    yield "|" + "|".join("---:" if name.startswith(">") else "---" for name in names) + "|"
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |"


def _predictions(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    yield from (
        "", "## Without a GPU: exact figures, and the time predicted for them", "",
        "Launches, bytes and operations are exact. The time of a launch is predicted by `tricnn/compiler/cost.py` from "
        "them and the device's data sheet, a network's is the sum of its launches'. Nothing here was measured.", "",
    )  # fmt: skip
    yield from table(
        "network | mode | >batch | >launches | >unfused | >bytes | >unfused | >operations | >memory | >predicted ms | "
        ">unfused",
        (
            (
                r["network"], r["mode"], r["batch"], r["fused"]["launches"], r["unfused"]["launches"],
                size(r["fused"]["dram_bytes"]), size(r["unfused"]["dram_bytes"]), scaled(r["fused"]["flops"]),
                size(r["fused"]["peak_memory_bytes"]), f"{r['fused']['predicted_us'] / 1e3:.3f}",
                f"{r['unfused']['predicted_us'] / 1e3:.3f}",
            )
            for r in rows
        ),
    )  # fmt: skip


def _contenders(case: Mapping[str, Any]) -> Iterable[str]:
    yield from ("", f"## {title(case)}", "")
    rows = []
    for c in case["contenders"]:
        if "error" in c:
            rows.append((c["name"], "failed", "", "", "", (c["error"].strip() or "ended").splitlines()[-1][:120]))
            continue
        note = "" if c.get("apart") is None else f"result {c['apart']:.1e} from eager's"
        note += f", gradients {c['gradients_apart']:.1e}" if c.get("gradients_apart") is not None else ""
        rows.append((
            c["name"], f"{c['milliseconds']:.3f}", f"{c['ratio']:.3f}" if "ratio" in c else "",
            f"{c['images_per_second']:,.0f}", size(c["peak_bytes"]) if c.get("peak_bytes") else "", note,
        ))  # fmt: skip
    yield from table("| >median ms | >time / eager | >images/s | >peak memory | ", rows)


def _kernels(case: Mapping[str, Any]) -> Iterable[str]:
    yield from ("", f"## Kernels of {title(case)}{'' if case.get('fuse', True) else ', nothing fused'}", "")
    if means := case.get("against_cudnn"):
        said = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
        yield from (f"cuDNN's time / ours, geometric mean over the shapes: {said}.", "")
    yield from table(
        "kernel | layers | >ms | >% | >TFLOP/s | >GB/s | >of the limit | >cuDNN ms",
        (
            (
                k["name"], ", ".join(k["layers"])[:60], f"{k['milliseconds']:.4f}", f"{k['percent']:.1f}",
                f"{k['teraflops']:.1f}", f"{k['gigabytes_per_second']:.0f}", f"{k['share_of_limit']:.0%}",
                f"{k['cudnn_milliseconds']:.4f}" if "cudnn_milliseconds" in k else "",
            )
            for k in case["kernels"][:KERNELS_SHOWN]
        ),
    )  # fmt: skip


def title(case: Mapping[str, Any]) -> str:
    return f"{case['network']}, {case['mode']}, {case['dtype']}, batch {case['batch']}"


def target_of(found: Found) -> str:
    capability = found.get("capability")
    return f"sm_{capability[0]}{capability[1]}" if capability else found.get("target", "sm_90")


def draw(found: Found, path: Path) -> Iterable[Path]:
    target = target_of(found)
    machine = machine_of(target, found.get("device", "")) if target in COMMON else None
    groups = [
        {"name": title(case), "bars": {c["name"]: c["ratio"] for c in case["contenders"] if "ratio" in c}}
        for case in measured(found, "bench", "contenders")
    ]
    if groups:
        yield bars(groups, path.with_name(f"{path.stem}-bars.png"))
    predictions = found.get("predictions", [])
    if predictions:
        groups = [
            {"name": title(r), "bars": {"fused": r["fused"]["predicted_us"] / r["unfused"]["predicted_us"]}}
            for r in predictions
        ]
        yield bars(groups, path.with_name(f"{path.stem}-bars.png"), "predicted time / predicted time unfused")
    if machine is None:
        return
    for case in [c for c in measured(found, "profile", "kernels") if c.get("fuse", True)][:1]:
        kernels = [{**k, "seconds": k["milliseconds"] / 1e3} for k in case["kernels"]]
        where = path.with_name(f"{path.stem}-roofline.png")
        yield roofline(kernels, machine, case["dtype"], where, title(case))
