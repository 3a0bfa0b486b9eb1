"""The page "Replace your solver": every snippet runs, in a process of its own, where its package is installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "replace-your-solver.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n+```python\n(.*?)```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL))
ALWAYS = {"Any matrix", "Code that cannot be changed", "Image editing", "TauFactor and PoreSpy"}


def test_every_section_has_a_snippet():
    assert len(SECTIONS) == PAGE.read_text().count("\n## ")


@pytest.mark.parametrize("section", list(SECTIONS))
def test_the_snippet_runs(section, tmp_path):
    script = tmp_path / "snippet.py"
    script.write_text(SECTIONS[section])
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    absent = re.search(r"ModuleNotFoundError: No module named '(?!krylearn)(\w+)", done.stderr)
    if absent and section not in ALWAYS:
        pytest.skip(f"{absent[1]} is not installed")
    assert done.returncode == 0, done.stderr
