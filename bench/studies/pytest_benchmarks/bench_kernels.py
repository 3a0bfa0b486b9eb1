"""pytest-benchmark: the fused kernels. `pytest bench --benchmark-only`, then `pytest-benchmark compare`."""

from __future__ import annotations

from typing import Any

from krylearn.pde import scene

from ...measure.timers import device_clock, devices
from ...solvers.kernel_speed import any_device_calls, cpu_calls

SIZE = 48


def pytest_generate_tests(metafunc: Any) -> None:
    """One benchmark per device and kernel."""
    cases = []
    for device in devices():
        A = scene("free_surface", (SIZE,) * 3, 0).to(device=device)
        calls = cpu_calls(A) if device == "cpu" else any_device_calls(A)
        cases += [(device, name, call) for name, _, call in calls]
    metafunc.parametrize(("device", "call"), [(d, c) for d, _, c in cases], ids=[f"{d}-{n}" for d, n, _ in cases])


def bench_kernel(benchmark: Any, device: str, call: Any) -> None:
    """Time one kernel with the clock of its device."""
    benchmark._timer = device_clock(device)
    benchmark(call)
