"""A model, on paper, of how training scales to many GPUs; its table in docs/distributed.md.

    python docs/distributed.py            writes the table (a minute)
    python docs/distributed.py --check    exit status 1 if it is stale

Bytes, launches and buckets are exact, those of the compiled step. Times of launches are predicted by the time model
(tricnn/lower/predicted_time.py) and times of sums by the figures below: nothing here was measured.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, log2, prod
from pathlib import Path

from tricnn.compiler.cost import Cost
from tricnn.compiler.pipeline import planned
from tricnn.graphs import ARCHITECTURES
from tricnn.lower.lower import lower
from tricnn.lower.predicted_time import predicted_seconds
from tricnn.run.launches import finished_after
from tricnn.training.gradient_exchange import BUCKET_BYTES, packed

PAGE = Path(__file__).with_name("distributed.md")
NETWORKS, TARGET, DTYPE, BATCH = ("resnet50", "vgg16_bn", "inception_v3"), "sm_90", "bf16", 256
WORLDS = (8, 64, 1024)

GPUS_PER_NODE = 8
NVLINK = 450e9  # bytes a second that a GPU sends to those of its node: NVLink 4, H100 SXM's data sheet
NETWORK = 50e9  # to other nodes: a 400 Gb/s adapter for each GPU, DGX H100's data sheet
REACHED = 0.75  # of both, by sums of tens of megabytes: assumed
HOP = 10e-6  # seconds until the first byte has passed one stage of the tree of nodes, or the node: assumed


@dataclass(frozen=True)
class Bucket:
    """Bytes that are summed together, and seconds from the step's beginning until they are finished."""

    bytes: int
    ready: float


def sum_seconds(size: float, world: int) -> float:
    """Seconds for the sum of ``size`` bytes over ``world`` GPUs, all of which get it.

    A node's GPUs each sum a part (reduce-scatter), the nodes sum each part, and the parts are gathered again: with g
    GPUs a node and m nodes, 2 (g-1)/g size / NVLink and 2 (m-1)/m (size/g) / network, one after the other.
    """
    gpus = min(world, GPUS_PER_NODE)
    nodes = ceil(world / GPUS_PER_NODE)
    within = 2 * (gpus - 1) / gpus * size / (REACHED * NVLINK)
    across = 2 * (nodes - 1) / nodes * (size / gpus) / (REACHED * NETWORK)
    return within + across + 2 * HOP * (1 + ceil(log2(nodes)))


def exposed_seconds(buckets: Sequence[Bucket], step: float, world: int) -> float:
    """Seconds by which a step is longer than alone: sums follow one another on a stream of their own, each as soon as
    its bucket is finished."""
    free = 0.0
    for bucket in buckets:
        free = max(free, bucket.ready) + sum_seconds(bucket.bytes, world)
    return max(free - step, 0.0)


def step_of(name: str) -> tuple[float, list[Bucket]]:
    """The predicted seconds of a network's training step, and the buckets of its gradients."""
    plan = planned(ARCHITECTURES[name](), "train", "auto", Cost(BATCH, DTYPE, TARGET))
    program = lower(replace(plan, bucket_bytes=BUCKET_BYTES), DTYPE, BATCH, TARGET)
    ends = list(accumulate(predicted_seconds(program)))
    sizes: list[tuple[str, int]] = []
    ready: dict[str, float] = {}
    written = [launch.writes for launch in program.launches]
    for end, finished in zip(ends, finished_after(plan, written, plan.graph.gradients), strict=True):
        for parameter, _ in finished:
            sizes.append((parameter, 4 * prod(plan.type(parameter).per_image)))
            ready[parameter] = end
    of = dict(sizes)
    return ends[-1], [
        Bucket(sum(of[name] for name in names), ready[names[-1]]) for names in packed(sizes, BUCKET_BYTES)
    ]


def table(names: Sequence[str] = NETWORKS) -> str:
    """Markdown: for each network and number of GPUs, what a step takes longer and the share of speed that is kept."""
    lines = [
        "| network | GPUs | gradients MB | buckets | the last one MB | sums take ms | longer by ms | kept |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        step, buckets = step_of(name)
        total = sum(bucket.bytes for bucket in buckets)
        for world in WORLDS:
            sums = sum(sum_seconds(bucket.bytes, world) for bucket in buckets)
            exposed = exposed_seconds(buckets, step, world)
            lines.append(
                f"| `{name}` | {world:,} | {total / 1e6:.1f} | {len(buckets)} | {buckets[-1].bytes / 1e6:.2f} | "
                f"{1e3 * sums:.2f} | {1e3 * exposed:.2f} | {step / (step + exposed):.1%} |"
            )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with its table made anew."""
    head, _, rest = text.partition("<!-- table -->\n")
    _, mark, tail = rest.partition("<!-- end of table -->\n")
    return f"{head}<!-- table -->\n{table()}{mark}{tail}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = PAGE.read_text()
    if not parser.parse_args().check:
        PAGE.write_text(page(text))
    elif page(text) != text:
        sys.exit(f"{PAGE.name} is stale: python docs/distributed.py")
