"""README and docs: their Python runs, their commands and links exist, their tables are those of the records."""

import re
import shlex
from pathlib import Path

import pytest
from krylearn.bench.cli import parser
from krylearn.bench.report.readme import all_records, pages, rendered

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]
# pages whose Python blocks are run
RUN = [
    "README.md",
    "docs/index.md",
    "docs/neural-multigrid.md",
    "docs/solvers.md",
    "docs/gradients.md",
    "docs/benchmarks.md",
    "docs/curvature.md",
    "docs/dcdm.md",
]


def text(page):
    return (ROOT / page).read_text()


def python(page):
    return re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)


def found(pattern):
    """(page, what was found in it) of all pages."""
    return sorted({(page, hit) for page in PAGES for hit in re.findall(pattern, text(page))})


@pytest.mark.parametrize("page", RUN)
def test_python_of_a_page_runs(page, monkeypatch, tmp_path):
    """All Python blocks, one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python(page):
        exec(compile(block, page, "exec"), names)
    assert names.get("info", 0) == 0


def test_the_quick_start_is_short():
    lines = [line for line in python("README.md")[0].splitlines() if line.strip()]
    assert len(lines) <= 16


@pytest.mark.parametrize(("page", "command"), found(r"`(krylearn [^`]+)`"))
def test_commands_of_the_pages_parse(page, command):
    assert parser().parse_args(shlex.split(command)[1:]).run


@pytest.mark.parametrize(("page", "target"), found(r"`make ([a-z-]+)"))
def test_make_targets_of_the_pages_exist(page, target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("page", "link"), found(r"\]\(([^)#]+)"))
def test_links_of_the_pages_lead_somewhere(page, link):
    assert link.startswith("https:") or (ROOT / page).parent.joinpath(link).exists()


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_a_page_are_those_of_the_records(page):
    assert rendered(text(page), all_records()) == text(page), (
        f"{page} differs from bench/studies/records: run `make report`"
    )


def test_pictures_of_the_pages_are_small():
    for picture in (ROOT / "docs" / "images").glob("*.png"):
        assert picture.stat().st_size < 1_500_000, picture.name


def test_nothing_committed_names_a_place_of_its_own():
    for page in (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml"):
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work)/", text(page)), page


BELOW = ("", "solvers/", "solvers/multigrid/", "optim/", "bench/", "pde/")  # what a page may leave out of a path


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "bench/studies/records/README.md"])
def test_files_that_a_page_names_are_there(page):
    named = set(re.findall(r"(?<![\w/.-])((?:[a-z_]+/)+[a-z_0-9]+\.py)\b", text(page)))
    assert not {path for path in named if not any((ROOT / below / path).exists() for below in BELOW)}
