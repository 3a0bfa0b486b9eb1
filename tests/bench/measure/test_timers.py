"""The CUDA timer's logic on a device whose clock is faked, and what the machine's ceilings mean."""

import time

import pytest
import torch
from krylearn.bench.measure.timers import Ceilings, CudaTimer, HostTimer, ceilings, peak_bytes, timer_for
from krylearn.bench.measure.timing import paired, timed


class FakeEvent:
    def __init__(self, device):
        self.device, self.at = device, None

    def record(self):
        self.device.queue.append((0.0, self))

    def synchronize(self):
        self.device.drain()

    def elapsed_time(self, end):
        assert self.at is not None, "read before the device got there"
        assert end.at is not None, "read before the device got there"
        return 1e3 * (end.at - self.at)


class FakeCuda:
    """A device with a queue: kernels are launched at once and run only when somebody waits."""

    def __init__(self, other_stream=0.0):
        self.now, self.queue, self.waits, self.capturing, self.other_stream = 0.0, [], 0, False, other_stream

    def Event(self, enable_timing):  # noqa: N802 (torch's name)
        assert enable_timing
        return FakeEvent(self)

    def launch(self, seconds, answer=None):
        self.queue.append((seconds, None))
        return answer

    def drain(self):
        for seconds, event in self.queue:
            self.now += seconds
            if event:
                event.at = self.now
        self.queue = []

    def synchronize(self, device):
        self.waits += 1
        self.drain()
        if self.waits % 2 == 0:  # the second wait of each measurement: another stream is still at work
            time.sleep(self.other_stream)

    def is_current_stream_capturing(self):
        return self.capturing


@pytest.fixture
def device():
    return FakeCuda()


def timer_of(device, flush_seconds=7.0):
    return CudaTimer("cuda", cuda=device, flush=lambda: device.launch(flush_seconds))


def test_the_device_clock_counts_the_work_and_neither_flush_nor_what_was_queued_before(device):
    device.launch(100.0)
    seconds, answer = timer_of(device)(lambda: device.launch(2.0, "x"))
    assert seconds == pytest.approx(2.0)
    assert answer == "x"
    assert device.now == pytest.approx(109.0)


def test_an_asynchronous_launch_is_waited_for(device):
    """The host clock would see nothing: the call returns before the device has done anything."""
    assert HostTimer()(lambda: device.launch(2.0))[0] < 1.0
    device.drain()
    assert timer_of(device)(lambda: [device.launch(0.5) for _ in range(4)])[0] == pytest.approx(2.0)


def test_every_repeat_flushes_the_cache_and_the_warm_up_is_not_timed(device):
    flushes, costs = [], iter([50.0, 1.0, 1.0, 1.0])
    timer = CudaTimer("cuda", cuda=device, flush=lambda: flushes.append(device.now))
    timing, _ = timed(lambda: device.launch(next(costs)), repeats=3, warmup=1, timer=timer)
    assert timing.seconds == pytest.approx((1.0, 1.0, 1.0))
    assert len(flushes) == 3


def test_pairs_on_the_device(device):
    pair = paired(lambda: device.launch(1.0), lambda: device.launch(3.0), pairs=4, timer=timer_of(device))
    assert pair.ratio == pytest.approx((3.0, 3.0, 3.0))
    assert pair.interval() == pytest.approx((3.0, 3.0))


def test_a_graph_is_timed_by_its_replay_and_never_during_its_capture(device):
    def graph():  # one launch, many kernels
        device.queue.extend([(0.1, None)] * 10)

    assert timer_of(device)(graph)[0] == pytest.approx(1.0)
    device.capturing = True
    with pytest.raises(RuntimeError, match="expected one that runs"):
        timer_of(device)(graph)


def test_work_that_the_current_stream_does_not_wait_for_is_an_error():
    device = FakeCuda(other_stream=0.02)
    with pytest.raises(RuntimeError, match="wait_stream"):
        timer_of(device)(lambda: device.launch(1e-3))


def test_a_cpu_has_the_host_clock():
    assert isinstance(timer_for("cpu"), HostTimer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_harness_on_a_real_device():
    x = torch.ones(1 << 24, device="cuda")
    found = ceilings("cuda", megabytes=128)
    seconds, _ = timer_for("cuda")(lambda: x.mul_(1.5))
    assert 0.2 < found.fraction(2 * x.nbytes, seconds) < 1.3
    used, _ = peak_bytes(lambda: torch.ones(1 << 24, device="cuda"), "cuda")
    assert used >= 4 << 24


def test_ceilings_are_the_best_of_their_runs():
    costs = iter([9.0, 2.0, 1.0, *[5e-6] * 39, 4e-6])

    def timer(run):
        run()
        return next(costs), None

    found = ceilings(timer=timer, megabytes=1, repeats=2)
    assert found.copy_gbs == pytest.approx(2 * (1 << 20) * 1e-9)
    assert found.launch_us == pytest.approx(4.0)


def test_a_fraction_of_the_roofline():
    assert Ceilings(copy_gbs=10.0, launch_us=1.0).fraction(5e9, 1.0) == pytest.approx(0.5)
    assert Ceilings(12.3456, 0.98765).facts() == {"copy_gbs": 12.3, "launch_us": 0.988}


def test_peak_memory_sees_what_a_call_needed_and_gave_back():
    used, answer = peak_bytes(lambda: len(torch.ones(1 << 23, dtype=torch.float64).sin()))
    assert answer == 1 << 23
    if used is None:
        pytest.skip("this system does not tell the peak of one call")
    assert 1.8 * (64 << 20) < used < 3 * (64 << 20)
