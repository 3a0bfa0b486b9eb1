"""Kill -9 at random moments of everything that writes: nothing older is lost, everything can go on, the same bits.

    make fuzz ARGS="kills --count 200 --seed 7"

A command runs in a forked child (whose imports are done), in a folder with the results of an earlier run, and is
killed after a random part of the time that it needs, or, every fourth, at a random system call of the module that
writes files.
Then the folder is looked at: the older file or the new one, whole; records as they were, with whole lines added; a
training run that goes on from its checkpoint to the very weights of one that nobody killed.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SOLVE = ["solve", "A.npz", "b.npy", "--shape", "24", "24", "24", "--weights", "resistor", "-o", "x.npy"]
BENCH = ["bench", "headline", "--size", "8", "--pairs", "1", "--weights", "geometric", "--records", "records.jsonl"]
REPORT = ["report", "--html", "page.html", "--records", "records.jsonl", "--png", "pictures"]
TRAIN = [
    "train",
    "--dim",
    "2",
    "--grid",
    "16",
    "--families",
    "blocks",
    "--steps",
    "8",
    "--output",
    "run",
    "--seed",
    "5",
]
CALLS = ("open", "write", "fsync", "replace", "ftruncate", "unlink", "close", "fdopen")


class CountedSystem:
    """Stands for `os` in the module that writes files; kills the process at the call whose number is up."""

    def __init__(self, left):
        self.left = left

    def __getattr__(self, name):
        value = getattr(os, name)
        if name not in CALLS:
            return value

        def counted(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return value(*arguments, **options)

        return counted


def start(arguments, folder, calls=None):
    """Fork a child that runs a command in a folder; return its number."""
    child = os.fork()
    if child:
        return child
    code = 9
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from krylearn.bench.cli import main
        from krylearn.solvers import files

        if calls is not None:
            files.os = CountedSystem(calls)
        code = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_whole(arguments, folder):
    """Run to the end; return the seconds that it took."""
    began = time.monotonic()
    code = finish(start(arguments, folder))
    assert code == 0, (Path(folder) / "log.txt").read_text()
    return time.monotonic() - began


def kill_once(rng, arguments, folder, seconds, number):
    """Run and kill; tell whether it was killed (it may have been quicker)."""
    if number % 4 == 3:
        code = finish(start(arguments, folder, calls=int(rng.integers(0, 30))))
    else:
        child = start(arguments, folder)
        time.sleep(float(rng.uniform(0, seconds)))
        os.kill(child, signal.SIGKILL)
        code = finish(child)
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"exit code {code}: {(Path(folder) / 'log.txt').read_text()[-2000:]}")
    return code == -signal.SIGKILL


def contents(folder):
    """Every file but the log and the temporary ones of killed writers."""
    every = (path for path in Path(folder).rglob("*") if path.is_file())
    kept = (path for path in every if path.name != "log.txt" and not path.name.endswith(".part"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def prepare_system(folder):
    import scipy.sparse as sp
    from krylearn.pde import Poisson

    rng = np.random.default_rng(0)
    A = Poisson.from_coefficients(np.exp(rng.standard_normal((24, 24, 24))))
    sp.save_npz(folder / "A.npz", sp.csr_array(A.matrix()))
    np.save(folder / "b.npy", rng.standard_normal(A.shape[0]))


def old_or_new(folder, before, after):
    """Every file is what it was or what the whole run makes of it."""
    found = contents(folder)
    lost = before.keys() - found.keys()
    mixed = [name for name, data in found.items() if data not in (before.get(name), after.get(name))]
    assert not lost, f"lost: {lost}"
    assert not mixed, f"neither older nor new: {mixed}"


def try_files(rng, count, arguments, prepare, older):
    """Kill a command whose results replace older files; return how many kills were delivered."""
    with tempfile.TemporaryDirectory() as name:
        folder, whole = Path(name) / "killed", Path(name) / "whole"
        folder.mkdir()
        prepare(folder)
        shutil.copytree(folder, whole)
        run_whole(arguments, whole)  # whatever has to be compiled is compiled now
        seconds = run_whole(arguments, whole)
        after = contents(whole)
        for file in older:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(b"older " + file.encode())
        before, killed, number = contents(folder), 0, 0
        while killed < count:
            killed += kill_once(rng, arguments, folder, seconds, number)
            number += 1
            old_or_new(folder, before, after)
            for file, data in before.items():  # the next one finds older files again
                (folder / file).write_bytes(data)
        run_whole(arguments, folder)
        assert contents(folder) == after
        assert not list(folder.rglob("*.part")), "a whole run removes what killed ones left"
    return killed


def try_solve(rng, count):
    return try_files(rng, count, SOLVE, prepare_system, ["x.npy"])


def try_report(rng, count):
    with tempfile.TemporaryDirectory() as name:
        measured = Path(name)
        run_whole(BENCH, measured)
        run_whole(REPORT, measured)
        older = [path.relative_to(measured).as_posix() for path in measured.glob("pictures/*.png")]

        def prepare(folder):  # a page about the very same records
            shutil.copy(measured / "records.jsonl", folder)

        return try_files(rng, count, REPORT, prepare, ["page.html", *older])


def try_bench(rng, count):
    """Kill a measurement: its file of records keeps every older line, and gets whole ones."""
    from krylearn.bench.measure.record import read

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_whole(BENCH, folder)
        seconds, file = run_whole(BENCH, folder), folder / "records.jsonl"
        killed = number = 0
        while killed < count:
            before = file.read_bytes()
            killed += kill_once(rng, BENCH, folder, seconds, number)
            number += 1
            after = file.read_bytes()
            assert after.startswith(before), "older records changed"
            assert after.endswith(b"\n"), "a torn line"
            assert len(read(file)) == after.count(b"\n")
        lines = len(read(file))
        run_whole(BENCH, folder)
        assert len(read(file)) > lines
    return killed


def try_train(rng, count):
    """Kill a training run and continue it, again and again, until it is done; then the next one."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        seconds = run_whole(TRAIN, whole)
        wanted = contents(whole)["run/2d-network.safetensors"]
        killed = runs = number = 0
        while killed < count:
            folder = Path(name) / f"run{runs}"
            folder.mkdir()
            runs, step, done = runs + 1, 0, False
            while not done:
                last = folder / "run" / "last.ckpt"
                begun = last.exists()
                if killed < count:
                    arguments = [*TRAIN, "--resume"] if begun else TRAIN
                    died = kill_once(rng, arguments, folder, seconds, number)
                else:
                    died = bool(run_whole([*TRAIN, "--resume"] if begun else TRAIN, folder) < 0)
                killed, number, done = killed + died, number + 1, not died
                if begun or last.exists():
                    now = torch.load(last, weights_only=True)["global_step"]
                    assert now >= step, f"went back from step {step} to {now}"
                    step = now
            assert contents(folder)["run/2d-network.safetensors"] == wanted, "other weights than without a kill"
            shutil.rmtree(folder)
    return killed


COMMANDS = {"solve": try_solve, "bench": try_bench, "report": try_report, "train": try_train}


def import_everything():
    """What a child would import otherwise, so that kills fall into the work."""
    import krylearn.bench.report.html
    import krylearn.bench.solvers.headline
    import krylearn.bench.solvers.matrix_files
    import krylearn.solvers.training.coefficients  # noqa: F401
    import pyamg  # noqa: F401


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=40, help="kills, shared by the commands")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args(arguments)
    import_everything()
    bad = 0
    for k, name in enumerate(options.commands):
        share = options.count * (k + 1) // len(options.commands) - options.count * k // len(options.commands)
        rng = np.random.default_rng((options.seed, k))
        began = time.monotonic()
        try:
            killed, text = COMMANDS[name](rng, share), "nothing lost, the same results"
        except AssertionError as error:
            killed, text, bad = share, f"WRONG: {error}", bad + 1
        print(f"{name}: {killed} kills, {text} (seed {options.seed}, {time.monotonic() - began:.0f} s)", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
