"""Eight threads on one operator and one M, and on eight of each: the bits of a serial run, under every threading layer.

    make fuzz ARGS="callers --calls 1000 --layers omp workqueue tbb"

Each layer is a process of its own, since numba chooses one per process. A call is a product, an application of M, a
solve by one of the entry points; half of the systems are small (one thread each), half large enough for kernels of
several threads. Calls that get other bits than the serial run, that raise or that never return are counted. Layers
that this machine lacks are named, and count as failed if they were asked for; tbb is the package `tbb`, and may lie in
a folder of its own: --tbb FOLDER.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

THREADS = 8
SHAPES = {"small": (24, 20), "large": (180, 130)}  # on both sides of the grid from which kernels use several threads
SECONDS = 1500


def calls():
    """Return every kind of call: (operator, M, b) -> array."""
    import scipy.sparse.linalg
    from krylearn.solvers import cg, dcdm, solve

    return {
        "A @ v": lambda A, M, b: A @ b,
        "M @ r": lambda A, M, b: M @ b,
        "cg(A, b)": lambda A, M, b: cg(A, b)[0],
        "cg(A, b, M=M)": lambda A, M, b: cg(A, b, M=M)[0],
        'cg(A, b, M="none")': lambda A, M, b: cg(A, b, M="none", maxiter=40)[0],
        "dcdm(A, b, M)": lambda A, M, b: dcdm(A, b, M, rtol=1e-3)[0],
        "solve(A, b)": lambda A, M, b: solve(A, b, rtol=1e-4),
        "scipy's cg with M": lambda A, M, b: scipy.sparse.linalg.cg(A, b.ravel(), M=M, rtol=1e-3)[0],
    }


def work(count):
    """Print as JSON what a process finds under the layer that its environment names."""
    import numba
    from krylearn.pde import Poisson
    from krylearn.solvers import NeuralMultigrid

    rng, found = np.random.default_rng(8), {}
    for size, shape in SHAPES.items():
        kappas = [10.0 ** rng.uniform(-1, 1, shape) for _ in range(THREADS)]
        right = [rng.standard_normal(shape) for _ in range(THREADS)]
        for weights in ("resistor", "pieces"):
            systems = []
            for kappa in kappas:
                A = Poisson.from_coefficients(kappa)
                systems.append((A, NeuralMultigrid(A, weights)))
            for name, call in calls().items():
                for sharing in ("one", "eight"):

                    def at(k, call=call, sharing=sharing, systems=systems, right=right):
                        return call(*systems[0 if sharing == "one" else k % THREADS], right[k % THREADS])

                    serial = [at(k) for k in range(THREADS)]
                    share = count * (9 if size == "small" else 1) // 20
                    begin, wrong, raised = time.perf_counter(), 0, 0
                    with ThreadPoolExecutor(THREADS) as pool:
                        for k, waiting in enumerate([pool.submit(at, k) for k in range(share)]):
                            try:
                                wrong += not np.array_equal(waiting.result(), serial[k % THREADS])
                            except Exception:
                                raised += 1
                    key = f"{name}, {sharing}"
                    total = found.setdefault(key, {"calls": 0, "other bits": 0, "raised": 0, "seconds": 0.0})
                    total["calls"] += share
                    total["other bits"] += wrong
                    total["raised"] += raised
                    total["seconds"] += round(time.perf_counter() - begin, 2)
    print(json.dumps({"layer": numba.threading_layer(), "found": found}))


def run_layer(layer, count, tbb):
    """Return what a process under this layer has found, or why there is nothing."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONWARNINGS": "ignore"}
    environment["NUMBA_NUM_THREADS"] = str(max(2, os.cpu_count() or 1))
    if tbb and layer == "tbb":
        library = next(iter(Path(tbb).rglob("libtbb.so.12")), Path(tbb))
        environment["LD_LIBRARY_PATH"] = f"{library.parent}:{environment.get('LD_LIBRARY_PATH', '')}"
        environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{tbb}"
    command = [sys.executable, "-m", __spec__.name, "--work", str(count)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    if done.returncode:
        return f"exit {done.returncode}: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["found"] if answer["layer"] == layer else f"numba took {answer['layer']} instead"


def main(given):
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="callers", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="per kind of call and layer")
    parser.add_argument("--layers", nargs="+", default=["omp", "workqueue"], choices=["omp", "workqueue", "tbb"])
    parser.add_argument("--tbb", help="folder with the package tbb, if it is not installed")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.work:
        work(options.work)
        return 0
    failed = False
    for layer in options.layers:
        found = run_layer(layer, options.calls, options.tbb)
        if isinstance(found, str):
            print(f"{layer}: {found}")
            failed = True
            continue
        print(f"| {layer} | calls | other bits | raised | s |\n|---|---:|---:|---:|---:|")
        for name, counts in found.items():
            print(f"| {name} | {' | '.join(f'{n:g}' for n in counts.values())} |", flush=True)
            failed |= counts["other bits"] + counts["raised"] > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
