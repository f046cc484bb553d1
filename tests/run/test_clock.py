"""Work that is shorter than its launch is timed as a CUDA graph; a stand-in for torch.cuda has a clock of its own."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from tricnn.measure.clock import CudaClock

LAUNCH, REPLAY = 20e-6, 5e-6  # seconds that Python takes to launch anything; of a graph's launch on the device


class Device:
    """Kernels take ``kernel`` seconds, one launched by Python at least LAUNCH."""

    def __init__(self, kernel):
        self.kernel, self.now, self.recording, self.recorded = kernel, 0.0, False, 0
        self.cuda = SimpleNamespace(
            Event=self.event, Stream=lambda: SimpleNamespace(wait_stream=lambda other: None), synchronize=lambda: None,
            current_stream=lambda: SimpleNamespace(wait_stream=lambda other: None), stream=lambda s: nullcontext(),
            CUDAGraph=self.make_graph, graph=self.record,
        )  # fmt: skip

    def event(self, enable_timing):
        event = SimpleNamespace()
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: (end.at - event.at) * 1e3
        return event

    def make_graph(self):
        def replay():
            self.now += REPLAY + self.recorded * self.kernel

        return SimpleNamespace(replay=replay)

    @contextmanager
    def record(self, graph, capture_error_mode):
        self.recording = True
        yield
        self.recording = False

    def launch(self):
        if self.recording:
            self.recorded += 1
        else:
            self.now += max(LAUNCH, self.kernel)


@pytest.mark.parametrize("kernel", [2e-6, 30e-6, 1e-3])
def test_it_is_the_kernel_that_is_timed(kernel):
    device = Device(kernel)
    clock = CudaClock()
    clock.torch = device
    assert clock(device.launch) == pytest.approx(kernel, abs=REPLAY / 10 + 1e-9)
    assert (device.recorded > 0) == (kernel < 60e-6)


def test_a_step_is_timed_as_it_is_launched_where_that_is_asked_for():
    device = Device(2e-6)
    clock = CudaClock(as_launched=True)
    clock.torch = device
    assert clock(device.launch) == pytest.approx(LAUNCH) and device.recorded == 0


@pytest.mark.parametrize("kernel, repeats", [(1e-3, 20), (1.0, 1), (1e-6, 50)])
def test_short_work_is_repeated_until_its_time_is_long_enough(kernel, repeats):
    device = Device(kernel)
    clock = CudaClock(None)
    clock.torch = device
    assert clock.enough(device.launch) == repeats
