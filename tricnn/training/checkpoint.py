"""Checkpoints: one safetensors file that a run can go on from, to the bit.

Its tensors are the network's, under PyTorch's names and in PyTorch's layout (any safetensors reader can load them),
what the optimiser remembers as ``momentum/<parameter>``, ``exp_avg/<parameter>`` and the like, and the running average
as ``average/<name>``. Its metadata holds the format, the graph's name, one JSON object with the settings and the
progress, and a SHA-256 over that object and every tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from ..system.errors import CheckpointError, shown
from ..system.files import Held, held, write_atomically

FORMAT = "tricnn checkpoint 1"
Arrays = dict[str, NDArray[Any]]


@dataclass
class Progress:
    """How far a run has come; everything the loop needs to go on is here or in the tensors."""

    step: int = 0  # updates done
    epoch: int = 0  # epochs done, their evaluation included
    position: int = 0  # batches done of the epoch under way
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # of them, until a batch was there
    epoch_loss: float = 0.0  # sums over the epoch under way, weighted by images
    epoch_images: int = 0
    recent_loss: float = 0.0  # sums since the curve's last point
    recent_steps: int = 0
    loss_scale: float = 0.0  # of the next step; 0: the loss is not scaled
    good_steps: int = 0  # finite ones on end, since the scale changed
    skipped: int = 0  # steps that updated nothing, for a gradient was not finite
    #: those that could not be read, each once: ``step`` (updates done when it was met), ``skipped_picture``, ``reason``
    skipped_pictures: list[dict[str, Any]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)  # [step, mean loss of the steps up to it]
    epochs: list[dict[str, float]] = field(default_factory=list)  # one record for each epoch done

    def skip(self, picture: str, reason: str) -> None:
        """Note a picture that could not be read, unless it is noted."""
        if all(each["skipped_picture"] != picture for each in self.skipped_pictures):
            self.skipped_pictures.append({"step": self.step, "skipped_picture": picture, "reason": reason})


@dataclass
class Checkpoint:
    """All that a run can go on from, to the bit.
    ``settings`` are those that decide the bits: a run goes on only under the same. ``slots`` is what is remembered
    beside the state: by what it is (no layer's name has a slash), and by name."""

    graph: str
    state: Arrays
    slots: dict[str, Arrays]
    settings: dict[str, Any]
    progress: Progress


def state_sha256(state: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor, by sorted name: name, dtype, shape, little-endian bytes in C order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        x = _little_endian(state[name])
        digest.update(f"{name}\0{x.dtype.str}{list(x.shape)}\0".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write ``path`` so that whoever reads it finds the old file or the new one whole.
    That holds at whatever moment the writer dies. Raises CheckpointError if it cannot be written."""
    path = Path(path)
    tensors = {name: _little_endian(x) for name, x in checkpoint.state.items()}
    for slot, values in checkpoint.slots.items():
        tensors |= {f"{slot}/{name}": _little_endian(x) for name, x in values.items()}
    content = json.dumps({"settings": checkpoint.settings, "progress": asdict(checkpoint.progress)})
    metadata = {
        "format": FORMAT,
        "graph": checkpoint.graph,
        "content": content,
        "sha256": _digest(checkpoint.graph, content, tensors),
    }
    try:
        write_atomically(path, save(tensors, metadata))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a file, verified.
    Raises CheckpointError, in one line, for a file that is missing, damaged or something else."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except Exception as error:  # whatever a damaged file, or a type that NumPy has not (bfloat16), leads to
        reason = " ".join(str(error).split())[:100]
        raise CheckpointError(f"{path}: expected a checkpoint, found a damaged or truncated file ({reason})") from None
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "a safetensors file of something else")
        raise CheckpointError(f"{path}: expected a {FORMAT}, found {str(found)[:60]}")
    graph, content = metadata.get("graph", ""), metadata.get("content", "")
    if metadata.get("sha256") != _digest(graph, content, tensors):
        raise CheckpointError(f"{path}: damaged: its contents do not give the checksum it carries")
    state = {name: x for name, x in tensors.items() if "/" not in name}
    slots: dict[str, Arrays] = {}
    for name, x in tensors.items():
        slot, slash, parameter = name.rpartition("/")
        if slash:
            slots.setdefault(slot, {})[parameter] = x
        of = state.get(parameter)
        if of is None or of.shape != x.shape or x.dtype.kind != "f":
            raise CheckpointError(
                f"{path}: {shown(name)} is {x.dtype}{list(x.shape)}; a checkpoint has parameters in floating point, "
                "and what the optimiser remembers of each in the same shapes"
            )
    try:
        stored, known = json.loads(content), {f.name: f.default for f in fields(Progress)}
        progress = Progress(**{k: v for k, v in stored["progress"].items() if k in known})
        settings = dict(stored["settings"])
        if any(type(getattr(progress, k)) not in (type(v), int) for k, v in known.items() if v is not MISSING):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: damaged: its settings and its progress are not what a run writes") from None
    return Checkpoint(graph, state, slots, settings, progress)


def check_same_run(path: str | Path, checkpoint: Checkpoint, graph: str, settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless going on with ``settings`` gives the bits of a run without a stop.
    The error names each difference."""
    if checkpoint.graph != graph:
        raise CheckpointError(f"{path}: it is a checkpoint of {checkpoint.graph}, not of {graph}")
    mine = json.loads(json.dumps(settings))
    if checkpoint.settings.get("network") != mine.get("network"):
        raise CheckpointError(f"{path}: it is a checkpoint of another {graph}: its layers are not these")
    differences = [
        f"{name} {_shown(checkpoint.settings.get(name))}, not {_shown(mine.get(name))}"
        for name in dict.fromkeys((*checkpoint.settings, *mine))
        if checkpoint.settings.get(name) != mine.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{path}: it was made with {'; '.join(differences)}: resume with the same settings, or start a new run "
            "from its weights (--weights)"
        )


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if need be) against another run. The lock goes with the process, however it ends.

    Raises CheckpointError if the folder cannot be made or another run holds it.
    """
    with contextlib.ExitStack() as lock:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(held(folder))
        except Held:
            raise CheckpointError(f"{folder}: another run is writing there; choose another --out") from None
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written ({error.strerror or error})") from None
        for left in folder.glob(".*.safetensors.*.tmp"):  # by a run that was killed while it wrote
            left.unlink(missing_ok=True)
        yield


def _little_endian(x: Any) -> NDArray[Any]:
    array = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _digest(graph: str, content: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    return hashlib.sha256(f"{graph}\0{content}\0{state_sha256(tensors)}".encode()).hexdigest()


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
