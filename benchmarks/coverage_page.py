"""The page of other people's networks that come in, made of what benchmarks/coverage.py found.

python -m benchmarks.coverage_page            writes docs/coverage.md
python -m benchmarks.coverage_page --check    exit status 1 if it is stale
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage_record import ALL, GRADIENTS, LOGITS, STAGES, passed, reaches, read, says

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
TITLES = {"torchvision": "torchvision", "timm": "timm", "smp": "segmentation-models-pytorch"}
HEAD = """\
# Other people's networks

Which networks of torchvision, timm and segmentation-models-pytorch `tricnn.from_torch` takes as they are, and whether
they compute the same. Each is made as published, with random weights; images are the smallest of a few sizes that the
network takes. *logits*: outputs in `eval()`, in float64 through ATen, differ from PyTorch's by at most {logits:g} of
the largest number. *gradients*: those of every parameter in `train()`, without dropout, by at most {gradients:g} of its
largest number. *imported*: in `eval()` for those of which logits only were compared, in `train()` for the others.
Fused kernels are not compared here: [verification](verification.md) is about them.

`make compat` makes an environment of its own for it (5.7 GB, about ten minutes); then

```sh
.venv-compat/bin/python -m benchmarks.coverage --models 'torchvision:*' --stage logits    # goes on where it was ended
.venv/bin/python -m benchmarks.coverage_page                                              # this page, of its record
```

Networks whose layers multiply what was computed with what was computed (attention), or work in three dimensions, are
no CNNs and not counted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if ``--check`` finds the page stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = page(read())
    if parser.parse_args(arguments).check:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


def page(lines: Iterable[Mapping[str, Any]]) -> str:
    """The page: counts by collection, then each network that did not come in or differs, with the reason, then those
    that are right."""
    newest: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)  # network -> stage -> its last line
    for line in lines:
        for stage in STAGES:
            if says(line, stage) or (reaches(line, stage) and stage not in newest[line["model"]]):
                newest[line["model"]][stage] = line
    parts = [HEAD.format(logits=LOGITS, gradients=GRADIENTS)]
    parts.append(_counts(newest))
    for kind, title in TITLES.items():
        own = {name: stages for name, stages in newest.items() if name.startswith(f"{kind}:")}
        if own:
            parts.append(_collection(title, own))
    return "\n".join(parts)


def _counts(newest: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = ["| collection | version | looked at | CNNs | imported | same logits | same gradients | on |",
            "|---|---|--:|--:|--:|--:|--:|---|"]  # fmt: skip
    for kind, title in TITLES.items():
        own = {name: stages for name, stages in newest.items() if name.startswith(f"{kind}:")}
        if not own:
            continue
        cnns = [stages for stages in own.values() if stages["import"].get("cnn") is not False]
        cells = [_share(cnns, stage) for stage in STAGES]
        some = next(iter(own.values()))["import"]
        version = some["versions"].get(title, "")
        dates = sorted({stages["import"]["date"] for stages in own.values()})
        rows.append(
            f"| {title} | {version} | {len(own)} of {ALL[kind]} | {len(cnns)} | {' | '.join(cells)} | {dates[-1]} |"
        )
    torch = sorted({stages["import"]["versions"]["torch"] for stages in newest.values()})
    return "\n".join(
        [*rows, "", f"PyTorch {', '.join(torch)}. A share is of the networks on which that was tried.", ""]
    )


def _share(cnns: Sequence[Mapping[str, Mapping[str, Any]]], stage: str) -> str:
    tried = [stages[stage] for stages in cnns if stage in stages]
    right = sum(passed(line, stage) for line in tried)
    return f"{right} of {len(tried)} ({right / len(tried):.0%})" if tried else "not tried"


def _collection(title: str, own: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    wrong, right, others = [], defaultdict(list), []
    for name, stages in sorted(own.items()):
        network = name.partition(":")[2]
        deepest = stages[[stage for stage in STAGES if stage in stages][-1]]
        if deepest.get("cnn") is False:
            others.append(network)
        elif all(passed(line, stage) for stage, line in stages.items()):
            right[[stage for stage in STAGES if stage in stages][-1]].append(network)
        else:
            wrong.append(f"| {network} | {_reason(deepest)} |")
    parts = [f"## {title}", ""]
    if wrong:
        parts += ["| network | why it is not right |", "|---|---|", *wrong, ""]
    words = {"import": "Imported only", "logits": "Same logits", "gradients": "Same logits and gradients"}
    parts += [f"{words[stage]} ({len(right[stage])}): {', '.join(right[stage])}.\n" for stage in STAGES if right[stage]]
    if others:
        parts.append(f"No CNNs ({len(others)}): {', '.join(others)}.\n")
    return "\n".join(parts)


def _reason(line: Mapping[str, Any]) -> str:
    """Why a network is not right, in one cell."""
    if problems := line.get("problems"):
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        return shown.replace("|", "\\|").replace("\n", " ")[:300]
    numbers = [f"{what} differ by {line[what]:.1e}" for what in ("logits", "training", "gradients") if what in line]
    return "; ".join(numbers)


if __name__ == "__main__":
    sys.exit(main())
