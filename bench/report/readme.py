"""`krylearn report`: the tables of README and docs and the pictures of docs/images, from the committed records.

A table stands in a page between `<!-- table:NAME -->` and `<!-- /table -->`; everything between is replaced. Its
records are bench/studies/records/NAME.jsonl (of a NAME with a hyphen: what stands before it); the last run of the file
counts.
No number in between is typed by hand, and a test compares.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..measure.console import UsageError, console
from ..measure.record import latest, read, records_folder
from ..show.markdown import markdown
from ..show.pictures import families_figure
from ..solvers import contest, families, kernel_speed, tables as solvers_report
from ..studies.curvature import table as curvature_table
from ..studies.solvers import cycle_ablations as ablations, published_table, rules, sequence, warm_starts
from ..studies.tuner import tables as training_report

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Lines = Sequence[dict]


def records_of(experiment: str) -> Path:
    """File that an experiment's records are appended to.

    Examples
    --------
    >>> records_of("demo").name
    'demo.jsonl'
    """
    return records_folder() / f"{experiment}.jsonl"


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
    return [page for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if page.exists()]


def all_records(root: Path = ROOT) -> dict[str, list[dict]]:
    """Read the committed records of every experiment that has a table or a picture.

    Examples
    --------
    >>> "families" in all_records()
    True
    """
    names = {*map(source, TABLES), *PICTURES}
    return {name: read(root / "bench" / "studies" / "records" / f"{name}.jsonl") for name in sorted(names)}


def provenance(lines: Lines) -> str:
    """Say where a run comes from: machine, threads, versions, commit, date.

    Examples
    --------
    >>> machine = {"cpu": "X", "cores": 2, "python": "3.11", "versions": {"numpy": "2.0", "pyamg": None}}
    >>> provenance([{"machine": machine, "threads": 2, "commit": "abc", "date": "2026-01-01"}])
    'X, 2 threads of 2 cores; Python 3.11, numpy 2.0; commit abc, 2026-01-01'
    """
    line = lines[-1]
    machine = line["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    where = f"{machine['cpu']}, {line['threads']} threads of {machine['cores']} cores"
    return f"{where}; Python {machine['python']}, {versions}; commit {line['commit'] or 'unknown'}, {line['date']}"


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
                page.write_text(new, encoding="utf-8")
    if check:
        console.print(
            f"run `krylearn report`: {', '.join(differing)}" if differing else "all pages agree with the records"
        )
        return int(bool(differing))
    images = root / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
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
    shutil.copy(output / "summary.png", images / "demo.png")


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


def _rules_table(lines: Lines) -> str:
    return markdown(rules.HEADER, rules.summary(lines))


def _ablations_table(lines: Lines) -> str:
    grid, seeds = " x ".join(map(str, lines[0]["shape"])), len({line["seed"] for line in lines})
    title = f"**Iterations to {lines[0]['tolerance']:g}, {grid}, means over {seeds} seeds of the test stream**"
    return f"{title}\n\n{markdown(ablations.HEADER, ablations.summary(lines))}"


def _kernels_table(lines: Lines) -> str:
    return markdown(kernel_speed.HEADER, kernel_speed.rows(lines))


def _sequence_table(lines: Lines) -> str:
    return f"**{sequence.title(lines)}**\n\n{markdown(sequence.HEADER, sequence.summary(lines))}"


def _families_title(lines: Lines) -> str:
    first, seeds = lines[0], len({line["seed"] for line in lines})
    grid = " x ".join(map(str, first["shape"]))
    return f"Iterations to {first['tolerance']:g}, {grid}, means over {seeds} seeds of the test stream"


def _curvature_table(lines: Lines) -> str:
    return markdown(curvature_table.HEADER, curvature_table.rows(lines))


def _warm_starts_table(lines: Lines) -> str:
    return markdown(warm_starts.HEADER, warm_starts.rows(lines))


def _batch_scaling_table(view: str) -> Callable[[Lines], str]:
    def write(lines: Lines) -> str:
        from ..studies.batch_scaling.tables import table_of  # needs torch, which the other tables do not

        return table_of(view)(lines)

    return write


def _batch_scaling_picture(lines: Lines, images: Path) -> None:
    from ..studies.batch_scaling.figure import scaling_figure

    scaling_figure(lines, images / "scaling.png")


def _published_table(lines: Lines) -> str:
    return published_table.blocks(lines, markdown)


def _published_counts(lines: Lines) -> str:
    return markdown(published_table.COUNTS, published_table.counted(lines))


TABLES: dict[str, tuple[Callable[[Lines], str], str]] = {
    "demo": (_demo_table, "krylearn demo"),
    "headline": (_headline_table, "krylearn bench headline"),
    "families": (_families_table, "krylearn bench families"),
    "rules": (_rules_table, "krylearn bench rules"),
    "ablations": (_ablations_table, "krylearn bench ablations"),
    "kernels": (_kernels_table, "krylearn bench kernels"),
    "sequence": (_sequence_table, "krylearn bench sequence"),
    "curvature": (_curvature_table, "krylearn bench curvature"),
    "published": (_published_table, "krylearn bench published"),
    "publishedcounts": (_published_counts, "krylearn bench published --counts --seeds 3 --rhs white divergence"),
    "solvers": (solvers_report.contest_tables, "krylearn bench solvers"),
    "solvers-pictures": (solvers_report.pictures, "krylearn bench solvers"),
    "solvers-breakeven": (solvers_report.break_even_tables, "krylearn bench solvers"),
    "warmstarts": (_warm_starts_table, "krylearn bench warmstarts"),
    "training": (training_report.loss_table, "krylearn bench training"),
    "training-train": (training_report.training_loss_table, "krylearn bench training"),
    "training-cost": (training_report.cost_table, "krylearn bench training"),
    "training-ablation": (training_report.ablation_table, "krylearn bench training"),
    "training-rounds": (training_report.rounds_table, "krylearn bench training"),
    "training-robustness": (training_report.robustness_table, "krylearn bench training"),
    **{
        f"batch_scaling-{view}": (_batch_scaling_table(view), "krylearn bench batch-scaling")
        for view in ("optima", "rules", "auto", "cost", "pairs")
    },
}
# experiment -> what draws its last run into docs/images
PICTURES: dict[str, Callable[[Lines, Path], None]] = {
    "families": _families_picture,
    "solvers": solvers_report.draw,
    "training": training_report.draw,
    "batch_scaling": _batch_scaling_picture,
}


def _block(name: str, lines: Lines) -> str:
    if name not in TABLES:
        raise UsageError(f"a page has a table '{name}'; expected one of {', '.join(TABLES)}")
    write, command = TABLES[name]
    found = latest(lines)
    if not found:
        return f"*No recorded run yet: `{command}`*"
    return f"{write(found)}\n\n<sub>`{command}`: {provenance(found)}</sub>"
