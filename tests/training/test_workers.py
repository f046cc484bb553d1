"""What a user would lose: a run that ends in order, whichever of its processes a signal reaches first, and that says in
a line which one died."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.fake import CLASSES, OPTIONS, SoftmaxRegression
from tricnn.system.errors import DataError
from tricnn.training.batch_sources import Batches
from tricnn.training.checkpoint import load_checkpoint
from tricnn.training.interrupts import TrainingInterrupted
from tricnn.training.loop import CHECKPOINT, train
from tricnn.training.pictures import PictureFolder

pytestmark = pytest.mark.filterwarnings("ignore:the training loss")
STEPS = replace(OPTIONS, epochs=1, batch=2, shift=0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 4)):
        for i in range(count):
            where = root / part / "abcd"[i % CLASSES]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (6, 6)).astype(np.uint8)).save(where / f"{i}.png")
    return root


def folder(pictures):
    return PictureFolder(pictures, image_size=(6, 6), channels=1, workers=2)


def foreign(pictures, timeout=1):
    """A user's own DataLoader, whose workers die of SIGTERM as PyTorch's do, which it finds after so many seconds."""
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.rand(40, 1, 6, 6, generator=generator), torch.arange(40) % CLASSES)
    loader = torch.utils.data.DataLoader(data, 2, num_workers=2, collate_fn=arrays, timeout=timeout)
    return Batches(loader, [arrays(data[i] for i in range(4))], CLASSES)


def arrays(items):
    return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*items))


class At:
    """A callback that does something after so many steps, while the run's own workers live."""

    def __init__(self, step, act):
        self.step, self.act, self.others = step, act, set(multiprocessing.active_children())

    def on_step(self, step, loss):
        if step == self.step:
            self.act([child for child in multiprocessing.active_children() if child not in self.others])


def run(data, out=None, resume=False, callbacks=(), options=STEPS):
    return train(SoftmaxRegression(), SoftmaxRegression(), data, options, out, resume, callbacks=callbacks)


def told_by_others(*pids):
    """SIGTERM as it comes to a whole process group, from a process that is none of these."""
    subprocess.run(["kill", "-s", "TERM", *map(str, pids)], check=True)


def dead(workers):
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_sigterm_to_the_workers_too_ends_the_run_as_a_termination_after_a_whole_step(pictures, tmp_path):
    """While the handler of PyTorch's for dead workers, which raises anywhere, is in its place before and after."""
    whole, others = run(folder(pictures)), set(multiprocessing.active_children())  # of tests before, not yet collected
    handler = signal.getsignal(signal.SIGCHLD)
    assert handler.__module__.startswith("torch.utils.data")
    lived = []

    def terminated(workers):
        told_by_others(*(worker.pid for worker in workers))
        time.sleep(0.3)
        lived.extend(worker.is_alive() for worker in workers)
        told_by_others(os.getpid())

    with pytest.raises(TrainingInterrupted, match=r"\(SIGTERM\) in epoch 1 after step 3; saved") as stop:
        run(folder(pictures), tmp_path, callbacks=[At(3, terminated)], options=replace(STEPS, checkpoint_every=999))
    assert stop.value.exit_status == 143 and lived == [True, True]
    assert set(multiprocessing.active_children()) <= others and signal.getsignal(signal.SIGCHLD) is handler
    assert load_checkpoint(tmp_path / CHECKPOINT).progress.step == 3
    assert run(folder(pictures), tmp_path, resume=True).state_sha256 == whole.state_sha256


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sigterm_that_kills_a_users_own_workers_first_is_a_termination_too(pictures, tmp_path, accumulate):
    """They die, and only then does the loop hear of it, which waits for their batch."""
    options = replace(STEPS, accumulate=accumulate, checkpoint_every=999)
    whole = run(foreign(pictures), options=options)

    def terminated(workers):
        told_by_others(*(worker.pid for worker in workers))
        dead(workers)
        later.start()

    later = threading.Timer(0.3, told_by_others, (os.getpid(),))
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come too late, only this test fails
    try:
        with pytest.raises(TrainingInterrupted, match=r"\(SIGTERM\) in epoch 1") as stop:
            run(foreign(pictures, timeout=3), tmp_path, callbacks=[At(3, terminated)], options=options)
    finally:
        later.join()
        signal.signal(signal.SIGTERM, before)
    assert stop.value.exit_status == 143
    assert load_checkpoint(tmp_path / CHECKPOINT).progress.step >= (3 if accumulate == 1 else 0)
    assert run(foreign(pictures), tmp_path, resume=True, options=options).state_sha256 == whole.state_sha256


@pytest.mark.parametrize("source", [folder, foreign])
def test_a_worker_that_dies_by_itself_is_one_line_and_the_step_under_way_is_whole(pictures, tmp_path, source):
    def killed(workers):
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
        dead(workers)  # PyTorch would raise here, in the middle of the callback

    with pytest.raises(DataError, match=r"a process that reads it died \(DataLoader worker .* fewer workers") as error:
        run(source(pictures), tmp_path, callbacks=[At(3, killed)])
    assert "\n" not in str(error.value)
    assert load_checkpoint(tmp_path / CHECKPOINT).progress.step >= 3
    assert run(source(pictures), tmp_path, resume=True).steps == 20
