"""Foreign names of weights: what scripts and wrappers put around them, and other collections' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..ir.table import nearest
from ..system.errors import CheckpointError, shown

CONTAINERS = ("state_dict", "model_state_dict", "model")  # what training scripts keep a state_dict under
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
COUNTERS = ("n_averaged", "num_batches_tracked")  # numbers beside the weights: torch's AveragedModel, batch norm

#: the dense layers of timm's VGG, which are convolutions there, by torchvision's names
TIMM_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


class NotLoaded(NamedTuple):
    """The names of what a network has and a state has not, of what only the state has, and of what has other shapes."""

    missing: list[str]
    unexpected: list[str]
    other_shapes: list[str]


def unwrapped(stored: Any, key: str | None = None, source: str = "") -> dict[str, Any]:
    """The state_dict inside ``stored``, its names without the wrappers' prefixes, in whatever order those are.
    ``key`` says which one where there are several. Raises CheckpointError if it is not there."""
    if key is not None:
        found = dict(_states(stored))
        if key not in found:
            there = f"{nearest(key, found)}there are: {', '.join(found) or 'none'}"
            raise CheckpointError(f"{source}no weights under {shown(key)}; {there}")
        stored = found[key]
    while isinstance(stored, Mapping):
        inner = next((stored[c] for c in CONTAINERS if isinstance(stored.get(c), Mapping)), None)
        if inner is None:
            break
        stored = inner
    state = {str(n): x for n, x in stored.items()} if isinstance(stored, Mapping) else {"the file's content": stored}
    while True:
        counted = {n: x for n, x in state.items() if n not in COUNTERS}
        prefix = next((p for p in WRAPPERS if counted and all(n.startswith(p) for n in counted)), None)
        if prefix is None:
            return state
        state = {n.removeprefix(prefix): x for n, x in counted.items()}


def _states(stored: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is under a name and may be a state_dict, however deep."""
    for name, x in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(x, Mapping):
            yield from _states(x)
            if any(hasattr(v, "shape") or isinstance(v, Mapping) for v in x.values()):
                yield str(name), x


def fitted(state: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """``state`` under the names and in the shapes of a network, ``wanted``.
    A prefix that all its names have and none of the network's is taken away, and timm's VGG gets torchvision's names.
    Where that leads to no name that is wanted it is left as it is."""
    found = {name.replace("_orig_mod.", ""): x for name, x in state.items()}
    if all(f"{name}.weight" in wanted for name in TIMM_VGG.values()) and "pre_logits.fc1.weight" in found:
        found = {_torchvisions(name): x for name, x in found.items()}
        for name in [n for n in found if n.startswith("classifier.") and n in wanted]:
            if len(found[name].shape) == 4:
                found[name] = found[name].reshape(found[name].shape[0], -1)
    while found and not wanted.keys() & found.keys():
        counted = {name: x for name, x in found.items() if name not in COUNTERS}
        heads = {name.partition(".")[0] for name in counted}
        if len(heads) != 1 or not all("." in name for name in counted):
            return dict(state)
        found = {name.partition(".")[2]: x for name, x in counted.items()}
    return found or dict(state)


def _torchvisions(name: str) -> str:
    layer, _, what = name.rpartition(".")
    return f"{TIMM_VGG.get(layer, layer)}.{what}"
