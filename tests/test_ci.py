"""`.ci/run` with another `make` in its place: what decides, what is on probation, what is not run, and the budget."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = re.findall(r"^part (\w+) (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.fixture
def ci(tmp_path):
    """Run a copy of the script; `outcomes` are lines of a shell's `case` on make's arguments."""

    def run(outcomes, change=lambda text: text):
        (tmp_path / ".ci").mkdir()
        (tmp_path / "bin").mkdir()
        script = tmp_path / ".ci" / "run"
        script.write_text(change((ROOT / ".ci" / "run").read_text()))
        make = tmp_path / "bin" / "make"
        make.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in\n{outcomes}\nesac\nexit 0\n')
        for name in ("chromium", "apt-get"):  # nothing is installed
            (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        for file in (script, *(tmp_path / "bin").iterdir()):
            file.chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, (tmp_path / "asked").read_text().splitlines()

    return run


def decides(text):
    return text.replace("part on_probation", "part decides")


def test_everything_passes(ci):
    code, said, asked = ci("")
    assert code == 0
    assert asked[0] == "test"
    assert len(asked) == len(ci_targets())
    assert said.splitlines()[-1] == f"{len(asked)} passed, 0 failed, 0 skipped"


def test_tests_that_fail_end_the_run_at_once(ci):
    code, _, asked = ci("test) exit 1;;")
    assert code == 1
    assert asked == ["test"]


@pytest.mark.parametrize("target", ["test-pages", "test-distributed", "test-integrations", "test-versions ARGS=lowest"])
def test_a_part_that_fails_decides_unless_it_is_on_probation(ci, target):
    code, said, asked = ci(f'"{target}") echo assert 1 == 2; exit 2;;', decides)
    assert code == 1
    assert "FAILED" in said
    assert "assert 1 == 2" in said
    assert len(asked) == len(ci_targets())  # the others still run


def ci_targets():
    return ["test", "test-pages", "test-distributed", "test-integrations", *("lowest", "newest", "3.12", "3.13")]


def test_on_probation_it_is_said_and_does_not_decide(ci):
    code, said, _ = ci("test-*) exit 1;;", lambda text: text.replace("part decides", "part on_probation"))
    assert code == 0
    assert said.count("on probation: does not decide yet") == len(ci_targets()) - 1


def test_what_cannot_be_run_here_is_no_failure(ci):
    code, said, _ = ci("test-pages) echo 'NOT RUN: needs Chromium'; exit 2;;", decides)
    assert code == 0
    assert "pages: NOT RUN: needs Chromium" in said


def test_a_budget_that_is_spent_leaves_the_rest_out(ci):
    code, said, asked = ci("", lambda text: text.replace("budget=$((75 * 60))", "budget=60"))
    assert code == 0
    assert asked == ["test"]
    assert "the time of this run is spent" in said


def test_parts_that_decide_have_passed_ten_times_in_a_row():
    """CONTRIBUTING keeps the count; a part moves to `decides` with the tenth pass."""
    table = (ROOT / "CONTRIBUTING.md").read_text()
    passes = {name: int(n) for name, n in re.findall(r"^\| `(\S+)` \| (\d+) \|", table, re.MULTILINE)}
    for verdict, name in PARTS:
        names = [name] if not name.startswith('"') else ["lowest", "newest", "3.12", "3.13"]
        for each in names:
            assert each in passes, each
            assert verdict == "on_probation" or passes[each] >= 10, each
