"""Without a GPU, kernels run under Triton's interpreter; it must be chosen before the first import of triton.

Memory that nothing has written holds NaN, or the largest integer, in all executors: torch fills what it allocates, the
Triton executor what each launch is the first to write. (The NumPy executor always does.)

Nothing that takes long is imported with this file: the process that hands tests out to others reads it, too.
"""

import gc
import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

#: plans are made of hundreds of thousands of small objects that live as long as they: looking for cycles among them
#: after every 700 is a tenth of the time of all tests
gc.set_threshold(50_000, 20, 20)


def pytest_sessionstart(session):
    """No test fails for a machine that is busy."""
    if session.config.getoption("dist", "no") == "no":  # a process that runs tests itself
        from hypothesis import HealthCheck, settings

        settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("untimed")


def pytest_collection_finish():
    """What is imported and collected lives to the end: no search for cycles looks at it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory):
    """A cache of machine code, one for all processes of a run: each has a folder of its own in the run's."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kernels"


@pytest.fixture(scope="session", autouse=True)
def workers_wait_for_the_next_test():
    """A compiler takes a second to start: the one that a test used is there for whichever compiles next."""
    from tricnn.build import worker_pool

    worker_pool.IDLE_SECONDS, worker_pool._REUSE_SECONDS = 3600.0, 3000.0


@pytest.fixture(scope="session", autouse=True)
def unwritten_memory_is_poisoned():
    import torch

    from tricnn.run.triton_executor import TritonExecutor

    TritonExecutor.poisons = True
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_deterministic_debug_mode("warn")  # without which torch fills nothing; imports no compiler, as others do
