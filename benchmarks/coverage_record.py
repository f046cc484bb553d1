"""What benchmarks/coverage.py found, one JSON object a line in benchmarks/coverage.jsonl, and what counts as right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("coverage.jsonl")
#: the networks that there are in the versions of constraints-compat.txt, outside files of transformers
ALL = {"torchvision": 86, "timm": 757, "smp": 10}
STAGES = ("import", "logits", "gradients")
#: how the problem begins of what was ended for want of memory or time
ENDED = ("RuntimeError: [enforce fail", "it took more than")
#: the largest difference of outputs, and of a parameter's gradient, as a part of its largest number, in float64
LOGITS, GRADIENTS = 1e-9, 1e-6


def read(path: Path = RECORD) -> Iterator[dict[str, Any]]:
    """The lines of a record, in order."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def passed(found: Mapping[str, Any], stage: str) -> bool:
    """Did a network pass a stage?"""
    if stage == "import" or not found.get("cnn", True):
        return bool(found.get("imported")) or found.get("cnn") is False
    if stage == "logits":
        return found.get("logits", 1.0) <= LOGITS
    return found.get("training", 1.0) <= LOGITS and found.get("gradients", 1.0) <= GRADIENTS


def reaches(found: Mapping[str, Any], stage: str) -> bool:
    """Was a stage tried?"""
    return STAGES.index(found["stage"]) >= STAGES.index(stage) or found.get("cnn") is False


def says(found: Mapping[str, Any], stage: str) -> bool:
    """Does a line say how a stage went? One that memory or time ran out on says so of the stages before only."""
    if not reaches(found, stage):
        return False
    ended = any(problem.startswith(ENDED) for problem in found.get("problems", ()))
    result = {"import": "imported", "logits": "logits", "gradients": "gradients"}[stage]
    return not ended or found["stage"] == stage or bool(found.get(result))
