"""Clocks for host and device, peak memory, and what the machine itself can do: the ceilings of every result.

A timer is a callable: run -> (seconds, result). `HostTimer` reads a clock before and after. `ReportedTimer` asks
processes that time themselves. `CudaTimer` records events on the current stream, after the cache was flushed and the
device idle, and reads them when the device is idle again.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

Run = Callable[[], Any]
LATE = 1e-4  # seconds that a device may stay busy after the last event: its own bookkeeping


class Timer(Protocol):
    """What times a call."""

    def __call__(self, run: Run) -> tuple[float, Any]:
        """Return the seconds that the call took, and what it returned."""


@dataclass(frozen=True)
class HostTimer:
    """Seconds of a clock of the host around a call that has finished when it returns.

    Examples
    --------
    >>> ticks = iter([1.0, 3.5])
    >>> HostTimer(clock=lambda: next(ticks))(lambda: "x")
    (2.5, 'x')
    """

    clock: Callable[[], float] = time.perf_counter

    def __call__(self, run: Run) -> tuple[float, Any]:
        """Time one call."""
        start = self.clock()
        result = run()
        return self.clock() - start, result


@dataclass(frozen=True)
class ReportedTimer:
    """Seconds that other processes have taken themselves: `loop.seconds`, of its last call.

    Examples
    --------
    >>> class Loop:
    ...     seconds = 0.5
    >>> ReportedTimer(Loop())(lambda: "x")
    (0.5, 'x')
    """

    loop: Any

    def __call__(self, run: Run) -> tuple[float, Any]:
        """Run, and ask how long it took."""
        result = run()
        return float(self.loop.seconds), result


class CudaTimer:
    """Seconds between two events on the current stream of a device.

    The cache is overwritten first (`flush`: a buffer of twice the second-level cache, so that no repeat finds the data
    of the one before), then the device is idle, so the launch of the first kernel counts: it is part of what a caller
    waits for. A CUDA graph is one launch on the current stream and is timed by its replay; its capture belongs into the
    warm-up, and a call during a capture is refused, since nothing runs then. Work that is still going on after the last
    event ran on a stream that the current one does not wait for; it would not be counted, so it is an error.

    Parameters
    ----------
    device : torch device
    cuda : stands for `torch.cuda` in tests of the logic
    flush : callable that overwrites the cache; by default a buffer is zeroed

    Examples
    --------
    >>> CudaTimer("cuda")(lambda: torch.ones(3, device="cuda") * 2)     # doctest: +SKIP
    """

    def __init__(self, device: Any = "cuda", *, cuda: Any = torch.cuda, flush: Run | None = None) -> None:
        self.device, self.cuda = device, cuda
        if flush is None:
            size = 2 * int(getattr(cuda.get_device_properties(device), "L2_cache_size", 0) or 64 << 20)
            flush = torch.empty(size, dtype=torch.uint8, device=device).zero_
        self.flush = flush

    def __call__(self, run: Run) -> tuple[float, Any]:
        """Time one call."""
        if self.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "got a stream that captures a graph; expected one that runs: capture first, time replays"
            )
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush()
        self.cuda.synchronize(self.device)
        start.record()
        result = run()
        end.record()
        end.synchronize()
        ended = time.perf_counter()
        self.cuda.synchronize(self.device)
        late, seconds = time.perf_counter() - ended, 1e-3 * start.elapsed_time(end)
        if late > max(LATE, 0.1 * seconds):
            raise RuntimeError(
                f"the device worked {late:.3g} s longer than the {seconds:.3g} s of the current stream; expected all "
                "work on it: let it wait for the other streams (torch.cuda.current_stream().wait_stream)"
            )
        return seconds, result


def timer_for(device: Any = "cpu") -> Timer:
    """Return the timer of a device.

    Examples
    --------
    >>> timer_for("cpu")
    HostTimer(clock=<built-in function perf_counter>)
    """
    return CudaTimer(device) if torch.device(device).type == "cuda" else HostTimer()


def device_clock(device: Any = "cpu") -> Callable[[], float]:
    """Return a clock for tools that read one before and after (pytest-benchmark): it waits for the device, then reads.

    Examples
    --------
    >>> device_clock("cpu") is time.perf_counter
    True
    """
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def devices() -> list[str]:
    """List the devices to measure on: the CPU, and CUDA where there is one.

    Examples
    --------
    >>> devices()[0]
    'cpu'
    """
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


# --- peak memory ------------------------------------------------------------------------------------------------------


def peak_bytes(run: Run, device: Any = "cpu") -> tuple[int | None, Any]:
    """Run once; return (bytes in use at the peak beyond those in use before, result).

    On CUDA as torch's allocator counts, so without what other libraries allocate; on a CPU the resident set of this
    process, to a page, where the system lets its high-water mark be reset (Linux), else None. Memory that the process
    holds but does not use is given back first.

    Examples
    --------
    >>> used, _ = peak_bytes(lambda: torch.ones(2**22, dtype=torch.float64))
    >>> used is None or used > 2**24
    True
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, result
    resettable = _reset_high_water()
    before = _status("VmRSS")
    result = run()
    return (max(0, _status("VmHWM") - before) if resettable else None), result


def _reset_high_water() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets the peak resident set size
    except (OSError, AttributeError):
        return False
    return True


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


# --- ceilings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceilings:
    """What the device did at its best: gigabytes per second of a copy (read + write), microseconds of a launch.

    Examples
    --------
    >>> Ceilings(copy_gbs=20.0, launch_us=5.0).fraction(bytes_moved=10**9, seconds=0.1)
    0.5
    """

    copy_gbs: float
    launch_us: float

    def fraction(self, bytes_moved: float, seconds: float) -> float:
        """Fraction of the copy's bandwidth that moving so many bytes in so many seconds is."""
        return bytes_moved / seconds / (1e9 * self.copy_gbs)

    def facts(self) -> dict[str, float]:
        """As a record keeps them, three digits each."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def ceilings(device: Any = "cpu", *, timer: Timer | None = None, megabytes: int = 256, repeats: int = 7) -> Ceilings:
    """Measure copy bandwidth and launch latency: the best of several runs, since a ceiling is what is possible.

    The copy is far larger than any cache. The launch is the smallest kernel there is: on CUDA one addition to one
    number, until the host knows that it is done; on a CPU one parallel loop of our kernels over two rows.

    Examples
    --------
    >>> found = ceilings(megabytes=1, repeats=1)
    >>> found.copy_gbs > 0, found.launch_us > 0
    (True, True)
    """
    timer = timer or timer_for(device)
    source = torch.ones(megabytes << 17, dtype=torch.float64, device=device)
    target = torch.zeros_like(source)
    tiny = _tiny_kernel(device)
    tiny()
    copies = [timer(lambda: target.copy_(source))[0] for _ in range(repeats + 1)][1:]
    launches = [timer(tiny)[0] for _ in range(20 * repeats)]
    return Ceilings(2e-9 * source.nbytes / min(copies), 1e6 * min(launches))


def _tiny_kernel(device: Any) -> Run:
    if torch.device(device).type == "cuda":
        number = torch.zeros(1, device=device)
        return lambda: number.add_(1)
    from krylearn.solvers.kernels.cpu.vectors import dot_rows

    rows, sums = torch.zeros(2, 8, dtype=torch.float64).numpy(), torch.zeros(2, dtype=torch.float64).numpy()
    return lambda: dot_rows(rows, rows, sums)
