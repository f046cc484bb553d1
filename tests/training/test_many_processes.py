"""Several processes that train one network: their gradients are those of one process with the whole batch."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.in_processes import in_processes
from tests.training.many import (
    BATCH,
    OVERFLOWING,
    WORLD,
    batch,
    images_of,
    main,
    model,
    network,
    one_process,
    scaled,
    trained,
    weighed,
)
from tricnn.training.gradient_exchange import packed


@pytest.fixture(scope="module", params=["numpy", pytest.param("triton", marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    """(executor, what each of two processes found), see many.py."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, in_processes(main, [(request.param, rank, folder) for rank in range(WORLD)])


def test_gradients_are_those_of_the_whole_batch(together):
    executor, found = together
    loss, gradients = one_process(executor)
    for rank in found:
        for step in rank["gradients"]:  # the first finds out the order, the second sums as gradients are finished
            for name, wanted in gradients.items():
                atol = 2e-6 * np.abs(wanted).max()
                np.testing.assert_allclose(step[name], wanted, rtol=2e-4, atol=atol, err_msg=name)
        assert rank["loss"] == pytest.approx(loss, rel=1e-5)


def test_classes_weigh_what_they_weigh_in_the_whole_batch(together):
    """Class weights and an ignored class, where one process has more of them than the other; of mixed labels, too."""
    executor, found = together
    for rank in found:
        for (loss, gradients), (mean, wanted) in zip(rank["weighed"], weighed(executor), strict=True):
            assert loss == pytest.approx(mean, rel=1e-5)
            for name, w in wanted.items():
                np.testing.assert_allclose(gradients[name], w, rtol=2e-4, atol=2e-6 * np.abs(w).max(), err_msg=name)


def test_all_processes_have_the_same_bits(together):
    _, (first, second) = together
    for name, gradient in first["gradients"][1].items():
        assert gradient.tobytes() == second["gradients"][1][name].tobytes(), name


def test_sums_begin_before_the_step_ends(together):
    _, (first, _) = together
    assert len(first["buckets"]) > 1  # 64 bytes a bucket
    assert first["begun"].index("sum") < len(first["begun"]) - 1  # gradients were finished after the first sum began
    finished = [name for name in first["begun"] if name != "sum"]
    assert sorted(finished) == sorted(p.name for p in network().parameters)  # each once


def test_a_run_shared_by_processes_is_the_run_of_one(together):
    executor, found = together
    state, result, _ = trained(executor)
    for shared, other, _ in (rank["trained"] for rank in found):
        assert shared.keys() == state.keys()
        for name, wanted in state.items():
            np.testing.assert_allclose(shared[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)
            assert shared[name].tobytes() == found[0]["trained"][0][name].tobytes(), name
        assert (other.steps, other.test_accuracy) == (result.steps, result.test_accuracy)
        assert other.train_loss == pytest.approx(result.train_loss, rel=1e-5)


def test_the_first_process_names_the_pictures_that_any_of_them_could_not_read(together):
    _, found = together
    first, second = (rank["trained"][2].splitlines() for rank in found)
    said = [f"process {n}: {n}.jpg: cannot be read as a picture (damaged), skipped (1 so far)" for n in range(WORLD)]
    assert [line for line in first if "skipped" in line] == said
    assert second == []
    for rank in found:
        assert rank["trained"][1].skipped_pictures == {f"{n}.jpg": "damaged" for n in range(WORLD)}


@pytest.mark.filterwarnings("ignore:the training loss")
def test_an_overflow_on_one_process_skips_the_step_on_all(together):
    """In fp16: scales and skipped steps are those of one process with the whole batch, and the weights to rounding."""
    executor, found = together
    scales, skipped, before, after = scaled(executor)
    assert [number for number, was in enumerate(skipped) if was] == list(OVERFLOWING)
    assert [math.log2(scale) for scale in scales] == [15, 14, 14, 15, 15, 14, 14, 15, 15, 16]
    for rank in found:
        assert rank["scaled"][:2] == (scales, skipped)
        for name, x in rank["scaled"][3].items():
            assert x.tobytes() == found[0]["scaled"][3][name].tobytes(), name
            # each step's gradient is a sum of what fp16 rounded by 2^-11 a few times, by other shares of a batch
            moved = np.abs(after[name] - before[name]).max()
            assert moved and np.abs(x - after[name]).max() <= 2**-7 * moved, name


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_in_one_line_and_the_rest_is_resumed_to_the_same_bits(tmp_path):
    """By torchrun, as a user starts it, on a folder of pictures that workers read, with mixup, CutMix and a running
    average. The other process is told by its connection, and ends with status 2; where torchrun may start all of them
    anew, they go on by themselves."""
    root = Path(__file__).parents[2]
    made = [sys.executable, root / "examples" / "generated_pictures.py", tmp_path / "data", "32", "8"]
    subprocess.run(made, check=True)
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(root)}, "text": True}

    def start(out, *more, restarts=0):
        command = f"""-m torch.distributed.run --nproc-per-node 2 --master-port {free_port()} --max-restarts {restarts}
            -m tricnn train lenet --input 3,32,32 --crop padded --workers 1 --mixup 0.2 --cutmix 1 --ema 0.9
            --batch 16 --executor numpy --epochs 6 --json --data data --out"""
        words = [sys.executable, *command.split(), out, *more]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def kill_one(run, out):
        """Kill its second process once an epoch is done; what it says until it ends."""
        while not (tmp_path / out / "epochs.csv").exists():
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.1)
        children = (int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
        victim = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(victim, signal.SIGKILL)
        out, err = run.communicate(timeout=300)
        return run.returncode, out, err

    status, _, err = kill_one(start("broken"), "broken")
    said = [line for line in err.splitlines() if line.startswith("tricnn: error: ")]
    assert status and len(said) == 1 and "process 0 of 2 cannot reach another one, which died or hangs" in said[0]
    states = []
    for arguments in (("broken", "--resume"), ("whole",)):
        run = start(*arguments)
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        states.append(json.loads(out)["state_sha256"])
    status, out, err = kill_one(start("elastic", restarts=1), "elastic")
    assert status == 0, err
    states.append(json.loads(out)["state_sha256"])
    assert len(set(states)) == 1
    averages = [(tmp_path / out / "averaged.safetensors").read_bytes() for out in ("broken", "whole", "elastic")]
    assert averages[0] == averages[1] == averages[2]


HANGS = """
import os, signal, sys
from tricnn.training.processes import ProcessLost, joined
with joined(3.0) as processes:
    assert processes.total([1.0]) == [2.0]
    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        processes.total([1.0])
    except ProcessLost as error:
        print(error, flush=True)
        os._exit(2)
"""


@pytest.mark.slow
def test_a_process_that_hangs_is_lost_after_a_while():
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HANGS],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said, _ = started[0].communicate(timeout=120)
    started[1].kill()
    started[1].wait()
    assert started[0].returncode == 2
    assert said.startswith("process 0 of 2 cannot reach another one, which died or hangs (") and said.count("\n") == 1


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_gradients_finished_in_buckets_are_those_finished_at_the_end():
    """To the bit; and what one launch does at the end is done by several in the middle of the step."""
    whole, parts = (model("triton", size) for size in (None, 64))
    kinds = [[launch.kind for launch in m.program.launches] for m in (whole, parts)]
    assert [k.count("sum_partials_of_many") for k in kinds] == [1, 3]  # a layer with its weight is more than 64 bytes
    assert kinds[1].index("sum_partials_of_many") < kinds[1].index("conv2d_grad_input")
    x, labels = batch()
    found = [m.loss_and_grads(x[:2], labels[:2])[1] for m in (whole, parts)]
    for name, gradient in found[0].items():
        assert gradient.tobytes() == found[1][name].tobytes(), name


def test_unequal_shares_are_weighed():
    assert [len(images_of(rank)[1]) for rank in range(WORLD)] == [BATCH // 2 + 1, BATCH // 2]


def test_gradients_are_packed_in_order_and_the_last_bucket_is_small():
    """Of 100 bytes a bucket, 4 the last one: by hand."""
    sizes = [("a", 60), ("b", 60), ("c", 40), ("d", 150), ("e", 3), ("f", 1)]
    assert packed(sizes, 100) == [["a"], ["b", "c"], ["d"], ["e", "f"]]
    assert packed([("large", 1000)], 100) == [["large"]]
    assert packed([], 100) == []
