"""The web pages build without a warning, wherever Sphinx is installed (`make docs` installs it)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason='pip install "krylearn[docs]"')
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees", "-b", "html"]
    built = subprocess.run([*command, ROOT / "docs", tmp_path / "pages"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for package, name in (
        ("pde", "Poisson"),
        ("solvers", "cg"),
        ("optim", "slq"),
        ("bench", "measure.timers.CudaTimer"),
    ):
        assert f'id="krylearn.{package}.{name}"' in (tmp_path / "pages" / "api" / f"{package}.html").read_text()


def test_every_page_has_a_title():
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.read_text().startswith("# "), page


def test_every_example_stands_in_the_gallery():
    text = (ROOT / "docs" / "gallery.md").read_text()
    for example in (ROOT / "examples").glob("*.py"):
        assert text.count(f"{{literalinclude}} ../examples/{example.name}") == 1, example
