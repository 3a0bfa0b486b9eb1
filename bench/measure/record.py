"""Records: one JSON line per measurement, appended and never edited.

Every number in README and docs is generated from these lines (`krylearn report`). A record says what was run on what,
with which tolerance, and whether it converged; a method that did not converge has no time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from krylearn.solvers.files import append_json_lines, read_json_lines

from .console import UsageError
from .machine import commit, in_checkout, machine, threads, version_of

RECORDS = Path(__file__).resolve().parents[1] / "studies" / "records"  # in a checkout; not installed
TIMED = ("CONVERGED", "MEASURED")  # MEASURED: what has no tolerance to reach, such as a kernel
NUMBER = (int, float, type(None))
SCHEMA: dict[str, tuple[type, ...]] = {
    "method": (str,), "problem": (str,), "unknowns": (int,), "tolerance": NUMBER, "status": (str,), "seed": NUMBER,
    "dtype": (str,), "device": (str,), "threads": (int,), "setup_s": NUMBER, "solve_s": NUMBER, "iterations": NUMBER,
    "products": NUMBER, "true_relres": NUMBER, "repeats": (int,), "commit": (str,), "machine": (dict,), "date": (str,),
}  # fmt: skip


@dataclass
class Record:
    """One measurement, one JSON line.

    `setup_s` and `solve_s` are medians in seconds, None where not measured or not converged; `spread_s` is the
    (lowest, highest) solve; `true_relres` is ‖b - Ax‖/‖b‖ in fp64; `unknowns` counts FLUID cells; `peak_bytes` is the
    memory that set-up and solve took beyond the system; `threads` is 0 for as many as our kernels use; `more` is what
    only this experiment has, with `run`, the name of the run.

    Examples
    --------
    >>> Record("cg", "open_box", unknowns=8, tolerance=1e-6, status="MAXITER", solve_s=0.1).solve_s is None
    True
    """

    method: str
    problem: str
    unknowns: int
    tolerance: float
    status: str
    experiment: str = ""
    version: str = ""
    config: str = ""
    seed: int | None = None
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    device: str = "cpu"
    setup_s: float | None = None
    solve_s: float | None = None
    spread_s: tuple[float, float] | None = None
    repeats: int = 0
    iterations: float | None = None
    products: int | None = None
    true_relres: float | None = None
    peak_bytes: int | None = None
    threads: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the times away from what did not converge; our methods are of our version."""
        if self.status not in TIMED:
            self.solve_s = self.spread_s = None
        if not self.version and self.method.startswith("krylearn"):
            self.version = version_of("krylearn") or ""

    def line(self) -> dict[str, Any]:
        """Everything that goes into the file: the measurement, the machine, the commit and the date."""
        facts = {k: plain(v) for k, v in asdict(self).items() if v not in ("", (), {})}
        here = {
            "threads": self.threads or threads(),
            "machine": machine(),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        return facts | here


def faults(line: dict[str, Any]) -> list[str]:
    """Say what is wrong with a line: what a record must hold, and that only what converged has a time.

    Examples
    --------
    >>> faults(Record("cg", "box", 8, 1e-6, "CONVERGED", true_relres=1e-7, more={"run": "r"}).line())
    []
    >>> faults({"method": "cg"})[0]
    'problem is missing'
    """
    found = [f"{name} is missing" for name in SCHEMA if name not in line]
    found += [f"{n} is {line[n]!r}" for n, kinds in SCHEMA.items() if n in line and not isinstance(line[n], kinds)]
    if found:
        return found
    if line["status"] not in TIMED and line["solve_s"] is not None:
        found.append(f"{line['status']} has a time")
    residual, tolerance = line["true_relres"], line["tolerance"]
    if line["status"] == "CONVERGED" and residual is not None and residual > tolerance:
        found.append(f"CONVERGED with true residual {residual:g}, tolerance {tolerance:g}")
    if not line.get("version") and not line["machine"].get("versions"):
        found.append("no version is stated")
    return found


def append(path: Path, records: Sequence[Record]) -> None:
    """Append records to a JSON-lines file; lines are never edited, a later run adds its own.

    Raises
    ------
    ValueError
        For a record that breaks the schema; nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs" / "records.jsonl"
    >>> append(file, [Record("cg", "open_box", 8, 1e-6, "CONVERGED", solve_s=0.1)] * 2)
    >>> [line["method"] for line in read(file)]
    ['cg', 'cg']
    """
    lines = [record.line() for record in records]
    wrong = [f"{line['method']} on {line['problem']}: {fault}" for line in lines for fault in faults(line)]
    if wrong:
        raise ValueError(
            f"got records that break the schema ({'; '.join(wrong)}); expected bench/measure/record.py's SCHEMA"
        )
    append_json_lines(path, lines)


def read(path: Path) -> list[dict[str, Any]]:
    """Read all records of a file, oldest first; none if there is no file.

    A last line that a killed run has cut off is left out, with a warning.

    Raises
    ------
    UsageError
        for another line that is no record; the message names it

    Examples
    --------
    >>> read(Path("no-such-file.jsonl"))
    []
    """
    try:
        return read_json_lines(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{error}; no records can be read") from error


def latest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the lines of the last run (the `run` identity that an experiment writes into all of its records).

    Examples
    --------
    >>> latest([{"more": {"run": "a"}}, {"more": {"run": "b"}}, {"more": {"run": "b"}}])
    [{'more': {'run': 'b'}}, {'more': {'run': 'b'}}]
    """
    if not lines:
        return []
    return [line for line in lines if line["more"]["run"] == lines[-1]["more"]["run"]]


def new_run() -> str:
    """Name a run, so that its records can be found again: the time in UTC.

    Examples
    --------
    >>> len(new_run())
    20
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def records_folder() -> Path:
    """Where benchmarks append by default: `bench/studies/records` of a checkout, else `krylearn-records` right here.

    Examples
    --------
    >>> records_folder().name in ("records", "krylearn-records")
    True
    """
    return RECORDS if in_checkout() else Path("krylearn-records")


def records_of(experiment: str) -> Path:
    """File that an experiment's records are appended to.

    Examples
    --------
    >>> records_of("demo").name
    'demo.jsonl'
    """
    return records_folder() / f"{experiment}.jsonl"


def plain(value: Any) -> Any:
    """JSON has no infinity: what never came is null, also inside lists and dictionaries."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
