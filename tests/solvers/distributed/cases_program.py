"""Run by `mpirun -n 8`: modules of cases, on all ranks and on groups of them; a JSON line per case goes to a file.

cases_program.py FOLDER MODULE...: FOLDER/N.jsonl is what N ranks say. One start of the interpreters serves all cases
and all numbers of ranks: starting a rank takes longer than its cases. A group is a communicator of its own, as a
program with several solvers would make it.
"""

import importlib
import json
import sys
import time
from pathlib import Path

from krylearn.solvers.distributed.petsc_library import world

PHASES = ((8,), (4, 3, 1), (2,))  # groups that run at the same time; ranks that are in none wait


def wait_for_all(comm):
    """Wait without spinning: the others need the cores."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.02)


def main(folder, modules):
    """Run."""
    comm = world()
    cases = {name: importlib.import_module(name) for name in modules}
    references = {name: share_out(comm, module.references()) for name, module in cases.items()}
    for sizes in PHASES:
        of_rank = [size for size in sizes for _ in range(size)]
        size = of_rank[comm.rank] if comm.rank < len(of_rank) else 0
        group = comm.Split(size, comm.rank)
        if size:
            with open(Path(folder) / f"{size}.jsonl", "a") as file:
                for name, module in cases.items():
                    if size <= 4 or module.__name__ == "iterations_cases":
                        for line in module.lines(group, references[name]):
                            if group.rank == 0:
                                file.write(json.dumps({"module": name, **line}) + "\n")
                                file.flush()
        wait_for_all(comm)
        group.Free()


def share_out(comm, jobs):
    """Return what each of the functions returns, by name: every rank calls some of them."""
    mine = {name: job() for k, (name, job) in enumerate(jobs.items()) if k % comm.size == comm.rank}
    return {name: value for each in comm.allgather(mine) for name, value in each.items()}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
