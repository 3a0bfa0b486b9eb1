"""`krylearn report --html`: one self-contained page from a file of records; every picture is inside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from krylearn.solvers.files import write_bytes, write_text

from ..measure.console import UsageError, console
from ..measure.record import faults, latest, read
from ..show import comparison, figures, profiles
from ..show.markdown import provenance
from ..solvers import contest
from ..solvers.tables import break_even

Lines = Sequence[dict[str, Any]]
EXPECTED = "a file of `krylearn bench solvers`, `bench kernels` or `bench cuda`"
TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def write_page(output: Path, records: Path, *, before: Path | None = None, pictures: Path | None = None) -> None:
    """Write the page of the last run of a record file.

    Parameters
    ----------
    output : .html file
    records : file of `krylearn bench solvers` or `krylearn bench kernels`, or a folder of such files, one per machine
    before : an older file of records, to say what changed
    pictures : folder that gets the figures as PNG files too

    Raises
    ------
    UsageError
        If there are no records, or none that the page is about.

    Examples
    --------
    >>> write_page(Path("report.html"), Path("krylearn-records/solvers.jsonl"))         # doctest: +SKIP
    """
    lines = merged_runs(records) if records.is_dir() else _last_run(records)
    older = _last_run(before) if before else []
    try:
        drawn = sections(lines)
        if before:
            drawn.append(_compared(older, lines, before))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{records} lacks what the page shows ({error!r}); expected {EXPECTED}") from error
    write_text(output, rendered(lines, drawn))
    if pictures:
        for section in drawn:
            if section.get("png"):
                write_bytes(pictures / f"{section['id']}.png", section["png"])
    console.print(f"page: {output}")


def _last_run(path: Path) -> list[dict[str, Any]]:
    """Read the last run of a file of records, all of which keep to the schema."""
    lines = read(path)
    if not lines:
        raise UsageError(f"{path} holds no records; expected {EXPECTED}")
    for number, line in enumerate(lines, 1):
        more = line.get("more")
        wrong = [*faults(line), *([] if isinstance(more, dict) and "run" in more else ["more.run is missing"])]
        if wrong:
            raise UsageError(f"{path}, record {number}: {wrong[0]}; expected {EXPECTED}")
    return latest(lines)


def merged_runs(folder: Path) -> list[dict[str, Any]]:
    """Join the last runs of all files of a folder, each on a machine of its own; systems are named with their machine.

    Raises
    ------
    UsageError
        If the folder holds no file of `krylearn bench solvers`.

    Examples
    --------
    >>> merged_runs(Path("krylearn-records"))                           # doctest: +SKIP
    """
    files = sorted(folder.rglob("*.jsonl"))
    runs = {file: [x for x in _last_run(file) if x.get("experiment") == "solvers"] for file in files}
    runs = {file: lines for file, lines in runs.items() if lines}
    if not runs:
        raise UsageError(f"{folder} holds no records of `krylearn bench solvers`; expected one file per machine")
    labels = {file: _machine_name(lines) for file, lines in runs.items()}
    merged = []
    for file, lines in runs.items():
        alike = list(labels.values()).count(labels[file]) > 1  # two of one kind are told apart by their files
        label = f"{labels[file]}, {file.relative_to(folder)}" if alike else labels[file]
        here = lines if len(runs) == 1 else [x | {"problem": f"{x['problem']} ({label})"} for x in lines]
        merged += here
    return merged


def _by_run(lines: Lines) -> list[Lines]:
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for x in lines:
        runs.setdefault((x["more"]["run"], str(x["machine"])), []).append(x)
    return list(runs.values())


def _machine_name(lines: Lines) -> str:
    where = lines[0]["machine"]
    return f"{where['cpu']}, {max(x['threads'] for x in lines)} of {where['cores']} cores"


def rendered(lines: Lines, drawn: Sequence[dict[str, Any]]) -> str:
    """Fill the template; all text is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('the page needs jinja2: pip install "krylearn[bench]"') from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    empty = {"text": "", "picture": "", "alt": "", "tables": []}
    filled = [empty | section for section in drawn]
    for section in filled:
        if section.get("png"):
            section["picture"] = "data:image/png;base64," + base64.b64encode(section["png"]).decode()
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"krylearn bench: {lines[0].get('experiment', 'records')}",
        provenance="; and ".join(provenance(run) for run in _by_run(lines)),
        ceilings=lines[0]["more"].get("ceilings"),
        sections=filled,
    )


def sections(lines: Lines) -> list[dict[str, Any]]:
    """Make the sections that the records have data for, in the order of the page."""
    parts = ("file", "tolerance", "accuracy", "sizes", "families")
    of = {part: [x for x in lines if x["more"].get("part") == part] for part in parts}
    contests, found = of["file"] + of["tolerance"], []
    if contests:
        found += _contest_sections(contests)
    if of["accuracy"] and figures.timed_lines(of["accuracy"]):
        text = "The tolerance holds for the true residual in double precision."
        found.append(_section("accuracy", "Time against accuracy", profiles.draw_accuracy, of["accuracy"], text))
    if of["sizes"] and figures.timed_lines(of["sizes"]):
        text = (
            "Flat is scalable. The roofline: what the bytes of krylearn's own iterations would take at a copy's speed."
        )
        found.append(_section("sizes", "Time per unknown against size", figures.nanoseconds, of["sizes"], text))
    if of["families"]:
        text = "Iterations to the tolerance, the fewest of a row in bold; they do not cost the same."
        found.append(_section("families", "Iterations over all families", figures.heat_map, of["families"], text))
    if any(x.get("experiment") == "cuda" for x in lines):
        found += _cuda_sections(lines)
    kernels = [x for x in lines if x.get("experiment") == "kernels"]
    if kernels:
        from ..solvers.kernel_speed import HEADER, rows

        tables = [{"caption": "", "header": HEADER, "rows": rows(kernels)}]
        found.append({"id": "kernels", "title": "Kernels", "tables": tables})
    missing = [x for x in contests if x["status"] in ("ABSENT", "UNSUITED", "FAILED")]
    reasons = sorted({(x["method"], x["status"].lower(), _why(x)) for x in missing})
    everybody = sorted({(x["method"], x.get("version", ""), x.get("config", "")) for x in contests if x not in missing})
    if everybody:
        tables = [{"caption": "", "header": ("method", "version", "configuration"), "rows": everybody}]
        if reasons:
            tables.append({"caption": "Not measured", "header": ("method", "status", "why"), "rows": reasons})
        found.append({"id": "methods", "title": "Methods", "tables": tables})
    return found


def _cuda_sections(lines: Lines) -> list[dict[str, Any]]:
    """Show checks, speeds, what was left out, and what failed with its trace."""
    from ..solvers import cuda

    hardware = lines[0]["more"].get("hardware")
    found = [{"id": "cuda", "title": "CUDA", "text": lines[0]["more"]["device"] if hardware else cuda.UNMEASURED}]
    for name, header, rows in cuda.tables(lines):
        if rows:
            tables = [{"caption": "", "header": header, "rows": rows}]
            found.append({"id": name.lower().replace(" ", "-"), "title": name, "tables": tables})
    return found


def _contest_sections(lines: Lines) -> list[dict[str, Any]]:
    tables = []
    for problem in figures.names(lines, "problem"):
        found = [x for x in lines if x["problem"] == problem and x["status"] not in ("ABSENT", "UNSUITED")]
        if found:
            tables.append({"caption": contest.title(found), "header": contest.HEADER, "rows": contest.summary(found)})
    timed = figures.timed_lines(lines)
    if not timed:
        return [{"id": "tolerance", "title": "Time to tolerance", "tables": tables}]
    made = [_section("tolerance", "Time to tolerance", figures.time_to_tolerance, lines) | {"tables": tables}]
    if len(figures.names(timed, "problem")) > 1:
        text = "Higher and further to the left is better; who fails on a system stays below 1."
        made.append(_section("profiles", "Over all systems", profiles.draw_profiles, lines, text))
    if any(len(x["more"].get("residuals", ())) > 1 for x in timed):
        made.append(
            _section("convergence", "Convergence", figures.convergence, lines, "Direct solves have no history.")
        )
    if any(x["setup_s"] for x in timed):
        text = (
            "Below the dotted line a solve is cheaper than its set-up. The table: for how many solves with one matrix "
            "a rival's total, set-up included, is below krylearn's."
        )
        section = _section("setup", "Set-up against solve", figures.setup_against_solve, lines, text)
        made.append(section | {"tables": break_even(timed)})
    if any(x.get("peak_bytes") for x in timed):
        text = "Peak of set-up and solve beyond the system, per unknown: the resident memory of the process, to a page."
        made.append(_section("memory", "Memory", figures.memory, lines, text))
    return made


def _section(name: str, title: str, draw: Callable[[Lines], bytes], lines: Lines, text: str = "") -> dict[str, Any]:
    alt = " ".join((draw.__doc__ or "").split("\n\n")[0].split())
    return {"id": name, "title": title, "png": draw(lines), "alt": alt, "text": text}


def _why(line: dict[str, Any]) -> str:
    return line["more"].get("reason") or line.get("config", "")


def _compared(older: Lines, lines: Lines, path: Path) -> dict[str, Any]:
    rows = comparison.changes(older, lines)
    verdict = "what changed beyond the noise." if rows else "no change beyond the noise."
    text = f"Against {path.name}, {len(older)} lines: {verdict}"
    table = {"caption": "", "header": comparison.HEADER, "rows": rows}
    return {"id": "changes", "title": "What changed", "text": text, "tables": [table] if rows else []}
