"""Sphinx: Markdown pages (MyST), API pages from the docstrings of the installed packages. Built by `make docs`."""

import importlib.metadata
import os
import re

# what is documented may start threads and compile when it is imported; nothing here needs more than one
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

project = "krylearn"
author = "The krylearn developers"
copyright = "the krylearn developers; BSD-3-Clause"
release = importlib.metadata.version("krylearn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
root_doc = "index"
default_role = "literal"  # `x` in a docstring is code, as its reader in a terminal takes it

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the Parameters sections say it, with shapes and units
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"krylearn {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """Let docstrings be written for a terminal, where | and * are mathematics and what is indented is a formula."""
    app.connect("autodoc-process-docstring", _plain_text, priority=0)  # before numpydoc


def _plain_text(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for markup; indented paragraphs before the sections become literal."""
    made, sections = [], False
    for paragraph in "\n".join(lines).split("\n\n"):
        rows = paragraph.split("\n")
        sections = sections or any(set(row.strip()) == {"-"} for row in rows)
        literal = not sections and all(row.startswith("    ") for row in rows)
        code = any(row.lstrip().startswith(">>>") for row in rows)
        made += ["::", ""] if literal else []
        made += [*(rows if literal or code else map(_escaped, rows)), ""]
    lines[:] = made


def _escaped(line):
    """Escape | and single * outside of backticks; a bullet stays one."""
    bullet = re.match(r"\s*\* ", line)
    start = bullet.end() if bullet else 0
    parts = re.split(r"(`+[^`]*`+|(?<!\S)\*\w+\*(?!\w)|\*\*[^*]+\*\*)", line[start:])
    return line[:start] + "".join(p if k % 2 else re.sub(r"([|*])", r"\\\1", p) for k, p in enumerate(parts))
