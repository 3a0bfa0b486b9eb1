"""Counts, not seconds: iterations and bytes of classical cycles are pinned, bytes exactly.

Rows: family, shape, weights, iterations, bytes of the cycle, reason for the last change. Test stream, seed 10007,
white noise, true residual 1e-6. One iteration more or fewer is rounding: the cycle's sums are reordered to fill the
vector registers, whose width depends on the processor. Anything else needs an edited row with its reason. The learned
weights have no row here: a new version changes them by design, and their card holds their scores.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from krylearn.pde import right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg

ROWS = [
    ("open_box", (16, 16, 16), "geometric", 6, 120576, "residual and last steps share memory"),
    ("obstacles", (17, 13, 11), "resistor", 7, 78921, "residual and last steps share memory"),
    ("lognormal", (16, 15, 16), "resistor", 13, 173056, "residual and last steps share memory"),
    ("mazes", (33, 31), "resistor", 32, 52027, "residual and last steps share memory"),
    ("neumann", (16, 16, 16), "geometric", 6, 120576, "residual and last steps share memory"),
    ("periodic", (32, 32), "geometric", 6, 47104, "residual and last steps share memory"),
]


@pytest.mark.parametrize(("family", "shape", "weights", "iterations", "bytes_kept", "reason"), ROWS)
def test_counts_are_as_pinned(family, shape, weights, iterations, bytes_kept, reason):
    A = scene(family, shape, 10007)
    M = NeuralMultigrid(A, weights=weights)
    _, info = cg(A, right_hand_side(A, "white", 10007), rtol=1e-6, M=M)
    assert info == 0
    assert abs(info.iterations - iterations) <= 1, reason
    assert info.matvecs == info.iterations + 1  # the last product checks the true residual
    assert M.fused.nbytes == bytes_kept, reason


@pytest.mark.parametrize("module", ["bench_kernels", "bench_solvers"])
def test_the_pytest_benchmark_modules_run(module):
    """Each at its smallest effort: one round, nothing calibrated."""
    root = Path(__file__).resolve().parents[4]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"bench/studies/pytest_benchmarks/{module}.py",
        "--benchmark-disable",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
