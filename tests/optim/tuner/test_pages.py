"""The tuner's pages: every block of Python runs as it stands; blocks that need other packages where these are."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"(?:<!-- needs: ([^>]*) -->\n)?```python\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(needs.split(", ") if needs else [], code, id=f"{page}-{k}")
    for page in ("tuner.md", "tuner-recipes.md")
    for k, (needs, code) in enumerate(BLOCK.findall((DOCS / page).read_text()))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("needs", "code"), BLOCKS)
def test_a_block_runs(needs, code, tmp_path, monkeypatch):
    absent = [name for name in needs if importlib.util.find_spec(name.strip()) is None]
    if absent:
        pytest.skip(f"pip install {' '.join(absent)}")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "page", "exec"), {"__name__": "page"})


def test_the_page_of_a_user_is_two_screens():
    lines = (DOCS / "tuner.md").read_text().splitlines()
    assert len(lines) <= 2 * 50
