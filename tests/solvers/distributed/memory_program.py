"""Peak memory per rank beyond what the interpreter and its packages take; with a limit, who gets through.

memory_program.py CELLS serial|ranks [limit in MB on data, after what an empty process has]
"""

import gc
import json
import resource
import sys

import numpy as np
from krylearn.pde import Poisson
from krylearn.solvers import cg as serial_cg
from krylearn.solvers.distributed import DistributedPoisson, Partition, cg


def status(name):
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def medium(own):
    """Smooth coefficients from a formula, and a right-hand side."""
    x, y, z = (np.arange(s.start, s.stop) for s in own)
    waves = np.sin(0.3 * x)[:, None, None] * np.cos(0.2 * y)[:, None] * np.sin(0.25 * z)
    return np.exp(waves, out=waves)


def solve_serial(n):
    """One process."""
    A = Poisson.from_coefficients(medium((slice(0, n),) * 3))
    _, info = serial_cg(A, np.ones((n, n, n)), rtol=1e-6)
    return info


def solve_ranks(n):
    """All ranks."""
    part = Partition((n, n, n))
    A = DistributedPoisson.from_coefficients(medium(part.own), part)
    _, info = cg(A, np.ones(part.own_shape), rtol=1e-6)
    return info


n, solve = int(sys.argv[1]), {"serial": solve_serial, "ranks": solve_ranks}[sys.argv[2]]
solve(28)  # loads and compiles everything
gc.collect()
data, peak_before = status("VmData"), status("VmHWM")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = status("VmRSS")
if len(sys.argv) > 3:
    limit = data + int(sys.argv[3]) * 10**6
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    info = solve(n)
    line = {"iterations": info.iterations, "converged": int(info) == 0}
except (MemoryError, RuntimeError) as error:
    line = {"failed": f"{type(error).__name__}: {str(error)[:80]}"}
line |= {"bytes_per_cell": (status("VmHWM") - before) / n**3, "peak": status("VmHWM") - before}
print(json.dumps(line), flush=True)
if "failed" in line:
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(3)
