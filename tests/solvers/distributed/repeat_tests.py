"""Run the tests of several ranks again and again: do they ever fail, hang, or end without a word?

    python tests/solvers/distributed/repeat_tests.py RECORD [--times 50]

RECORD gets one JSON line per run, as it ends; what it holds already counts, so that a stopped series goes on.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TESTS = (  # those of make test-distributed
    "tests/solvers/distributed",
    "tests/bench/rivals/test_petsc.py",
    "tests/bench/studies/solvers/test_rank_contest.py",
)


def run_once(timeout):
    """What one run of the tests ended with; a failure keeps the end of its output."""
    environment = {**os.environ, "KRYLEARN_RANKS_TIMEOUT": str(timeout / 4)}
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", *TESTS]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment)
        code, out = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, out = None, (error.stdout or b"").decode(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = {
        "kind": "distributed-repeats",
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(start)),
        "commit": commit(),
        "passed": code == 0,
        "summary": out.strip().splitlines()[-1] if out.strip() else "",
        "seconds": round(time.time() - start, 1),
        "processor_seconds": round(processor, 1),
        "load": round(os.getloadavg()[0], 1),
        "sleeping_yield": "LD_PRELOAD" in os.environ,
    }
    return line if code == 0 else {**line, "code": code, "output": out[-4000:]}


def commit():
    """The commit of the checkout, with a plus if files have changed."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return head + ("+" if changed else "")


def main():
    """Run until the record has so many lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds after which a run counts as hung")
    args = parser.parse_args()
    while (len(args.record.read_text().splitlines()) if args.record.exists() else 0) < args.times:
        line = run_once(args.timeout)
        with args.record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line["date"], line["summary"], flush=True)


if __name__ == "__main__":
    main()
