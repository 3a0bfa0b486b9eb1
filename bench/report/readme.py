"""`krylearn report`: the tables of README and docs and the pictures of docs/images, from the committed records.

A table stands in a page between `<!-- table:NAME -->` and `<!-- /table -->`; everything between is replaced. Its
records are bench/studies/records/NAME.jsonl (of a NAME with a hyphen: what stands before it); the last run of the file
counts.
No number in between is typed by hand, and a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from krylearn.solvers.files import write_bytes, write_text

from ..measure.console import UsageError, console
from ..measure.record import latest, read
from ..show.markdown import markdown, provenance
from ..show.pictures import families_figure
from ..solvers import contest, cuda, families, kernel_speed, tables as contest_tables

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Lines = Sequence[dict]


def rendered(text: str, records: Mapping[str, Lines]) -> str:
    r"""Fill the table blocks of a page with the given records (experiment -> lines, the last run counts).

    Examples
    --------
    >>> print(rendered("<!-- table:headline -->\n<!-- /table -->", {"headline": []}))
    <!-- table:headline -->
    *No recorded run yet: `krylearn bench headline`*
    <!-- /table -->
    """
    return BLOCK.sub(
        lambda block: block[1] + _block(block[2], records.get(source(block[2]), ())) + "\n" + block[3], text
    )


def source(table: str) -> str:
    """Name the experiment that a table is about.

    Examples
    --------
    >>> source("solvers-families"), source("demo")
    ('solvers', 'demo')
    """
    return table.partition("-")[0]


def pages(root: Path = ROOT) -> list[Path]:
    """List the pages that may hold tables: README and docs.

    Examples
    --------
    >>> {page.suffix for page in pages()} <= {".md"}
    True
    """
    return [page for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if page.exists()]


def all_records(root: Path = ROOT) -> dict[str, list[dict]]:
    """Read the committed records of every experiment that has a table or a picture.

    Examples
    --------
    >>> "families" in all_records()
    True
    """
    names = {*map(source, tables()), *pictures()}
    return {name: read(root / "bench" / "studies" / "records" / f"{name}.jsonl") for name in sorted(names)}


def write_report(root: Path = ROOT, *, check: bool = False) -> int:
    """Renew README, docs and docs/images from the records; with `check`, only compare: 1 if a page differs, else 0.

    Raises
    ------
    UsageError
        Outside a checkout, where there is no README to renew.

    Examples
    --------
    >>> write_report(check=True) in (0, 1)                              # doctest: +SKIP
    True
    """
    if not (root / "README.md").exists():
        raise UsageError(f"there is no README.md in {root}; `krylearn report` works in a checkout of the repository")
    records, differing = all_records(root), []
    for page in pages(root):
        old = page.read_text(encoding="utf-8")
        new = rendered(old, records)
        if new != old:
            differing.append(page.relative_to(root).as_posix())
            if not check:
                write_text(page, new)
    if check:
        console.print(
            f"run `krylearn report`: {', '.join(differing)}" if differing else "all pages agree with the records"
        )
        return int(bool(differing))
    images = root / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures().items():
        found = latest(records[name])
        if found:
            draw(found, images)
    console.print(f"written: {', '.join([*differing, 'docs/images'])}; the rest was as the records say")
    return 0


def publish_demo(output: Path, root: Path = ROOT) -> None:
    """Copy the demo's picture to docs/images, where README and docs show it.

    Examples
    --------
    >>> publish_demo(Path("demo-output"))                               # doctest: +SKIP
    """
    images = root / "docs" / "images"
    if not (root / "README.md").exists():
        raise UsageError(f"--publish works in a checkout of the repository; {root} has no README.md")
    images.mkdir(parents=True, exist_ok=True)
    write_bytes(images / "demo.png", (output / "summary.png").read_bytes())


def _demo_table(lines: Lines) -> str:
    frames = {line["more"]["frame"]: None for line in lines}
    parts = []
    for frame in frames:
        found = [line for line in lines if line["more"]["frame"] == frame]
        parts.append(f"**Step {frame}: {contest.title(found)}**\n\n{markdown(contest.HEADER, contest.summary(found))}")
    return "\n\n".join(parts)


def _headline_table(lines: Lines) -> str:
    return f"**{contest.title(lines)}**\n\n{markdown(contest.HEADER, contest.summary(lines))}"


def _families_table(lines: Lines) -> str:
    return f"**{_families_title(lines)}**\n\n{markdown(families.HEADER, families.summary(lines))}"


def _families_picture(lines: Lines, images: Path) -> None:
    families_figure(images / "families.png", families.means(lines), _families_title(lines))


def _kernels_table(lines: Lines) -> str:
    return markdown(kernel_speed.HEADER, kernel_speed.rows(lines))


def _families_title(lines: Lines) -> str:
    first, seeds = lines[0], len({line["seed"] for line in lines})
    grid = " x ".join(map(str, first["shape"]))
    return f"Iterations to {first['tolerance']:g}, {grid}, means over {seeds} seeds of the test stream"


# of what a user can measure; those of the studies are added where there are any
TABLES: dict[str, tuple[Callable[[Lines], str], str]] = {
    "demo": (_demo_table, "krylearn demo"),
    "headline": (_headline_table, "krylearn bench headline"),
    "families": (_families_table, "krylearn bench families"),
    "kernels": (_kernels_table, "krylearn bench kernels"),
    "cuda": (cuda.page_table, "krylearn bench cuda"),
    "solvers": (contest_tables.contest_tables, "krylearn bench solvers"),
    "solvers-pictures": (contest_tables.pictures, "krylearn bench solvers"),
    "solvers-profiles": (contest_tables.profile_table, "krylearn bench solvers"),
    "solvers-fastest": (contest_tables.fastest_table, "krylearn bench solvers"),
    "solvers-means": (contest_tables.means_table, "krylearn bench solvers"),
    "solvers-equal": (contest_tables.equal_width_table, "krylearn bench solvers"),
    "solvers-training": (contest_tables.training_table, "krylearn bench solvers"),
    "solvers-breakeven": (contest_tables.break_even_tables, "krylearn bench solvers"),
}
# experiment -> what draws its last run into docs/images
PICTURES: dict[str, Callable[[Lines, Path], None]] = {"families": _families_picture, "solvers": contest_tables.draw}


def tables() -> dict[str, tuple[Callable[[Lines], str], str]]:
    """Return every table that a page may hold: name -> (what writes it, the command that measures it).

    Examples
    --------
    >>> tables()["headline"][1]
    'krylearn bench headline'
    """
    return TABLES | _of_studies("TABLES")


def pictures() -> dict[str, Callable[[Lines, Path], None]]:
    """Return what draws docs/images: experiment -> function of its last run and the folder.

    Examples
    --------
    >>> "families" in pictures()
    True
    """
    return PICTURES | _of_studies("PICTURES")


def _of_studies(name: str) -> dict[str, Any]:
    """Look into bench/studies, which is part of a checkout and not of an installation."""
    if find_spec("krylearn.bench.studies") is None:
        return {}
    return getattr(import_module("krylearn.bench.studies.tables"), name)


def _block(name: str, lines: Lines) -> str:
    known = tables()
    if name not in known:
        raise UsageError(f"a page has a table '{name}'; expected one of {', '.join(known)}")
    write, command = known[name]
    found = latest(lines)
    if not found:
        return f"*No recorded run yet: `{command}`*"
    return f"{write(found)}\n\n<sub>`{command}`: {provenance(found)}</sub>"
