"""Where a measurement was made: processor, threads, versions, commit; nothing that names the machine's owner."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("krylearn", "torch", "numpy", "scipy", "numba", "pyamg")


def machine() -> dict[str, Any]:
    """Describe the machine by what decides speed; nothing that names its owner (no host name, user or path).

    Examples
    --------
    >>> sorted(machine())
    ['cores', 'cpu', 'python', 'system', 'versions']
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in VERSIONS},
    }


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None.

    Examples
    --------
    >>> version_of("no-such-distribution") is None
    True
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def free_bytes() -> int | None:
    """Memory that a process could take now without swapping; None where the system does not say (other than Linux).

    Examples
    --------
    >>> (free_bytes() or 1) > 0
    True
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def threads() -> int:
    """How many threads our kernels use now (numba's count where it is loaded, else torch's).

    Examples
    --------
    >>> threads() >= 1
    True
    """
    if "numba" in sys.modules:
        return int(sys.modules["numba"].get_num_threads())
    import torch

    return torch.get_num_threads()


def commit() -> str:
    """Commit of the source tree that runs, with `-dirty` if it was changed; "" for an installed wheel.

    Examples
    --------
    >>> isinstance(commit(), str)
    True
    """
    here = Path(__file__).resolve().parent
    if not in_checkout():
        return ""
    head = _git(here, "rev-parse", "--short=12", "HEAD")
    # records grow while a benchmark runs; they are no change of the code
    changed = _git(
        here, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)bench/studies/records"
    )
    return head + ("-dirty" if changed else "")


def in_checkout() -> bool:
    """Whether this module is a tracked file of a git checkout (a wheel inside somebody's repository is not).

    Examples
    --------
    >>> in_checkout() in (True, False)
    True
    """
    return bool(_git(Path(__file__).resolve().parent, "ls-files", Path(__file__).name))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    """Model name of the processor: Linux tells it in /proc, others through `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
