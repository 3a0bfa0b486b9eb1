"""README: its quick start runs, its commands and links exist, its tables are those of the records."""

import re
import shlex
from pathlib import Path

import pytest
from krylearn.bench.cli import parser
from krylearn.bench.record import read
from krylearn.bench.report import TABLES, rendered

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_quick_start_runs():
    """All Python blocks, one after the other, as a reader would paste them."""
    names = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), names)
    assert names["info"] == 0


def test_the_quick_start_is_short():
    lines = [line for line in PYTHON[0].splitlines() if line.strip()]
    assert len(lines) <= 16


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(krylearn [^`]+)`", TEXT))))
def test_commands_of_the_readme_parse(command):
    assert parser().parse_args(shlex.split(command)[1:]).run


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", TEXT))))
def test_make_targets_of_the_readme_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", TEXT))))
def test_links_of_the_readme_lead_somewhere(link):
    assert link.startswith("https:") or (ROOT / link).exists()


def test_the_tables_are_those_of_the_records():
    records = {name: read(ROOT / "bench" / "records" / f"{name}.jsonl") for name in TABLES}
    assert rendered(TEXT, records) == TEXT, "README.md differs from bench/records: run `make report`"


def test_nothing_committed_names_a_place_of_its_own():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml"):
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work)/", (ROOT / page).read_text()), page
