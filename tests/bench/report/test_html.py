"""The page: complete, self-contained, and as a real browser shows it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from krylearn.bench.cli import main
from krylearn.bench.measure.record import read
from krylearn.bench.report.html import merged_runs, write_page
from krylearn.bench.show.comparison import changes
from krylearn.bench.solvers import compare as compare_solvers
from krylearn.bench.solvers.compare import BOX, FEW, OWN, Job
from krylearn.bench.solvers.tables import break_even
from PIL import Image

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
METHODS = ("krylearn", "krylearn geometric", "scipy-cg", "scipy-cg-ilu", "pyamg-rs", "transforms", "amgx")
SMALL = [
    Job("tolerance", BOX, 8, METHODS, 2),
    Job("tolerance", "lognormal", 8, METHODS, 2),
    *[Job("sizes", "free_surface", size, FEW[:3], 1) for size in (6, 8)],
    *[Job("families", family, 6, (*OWN, "pyamg-sa"), 1) for family in ("mazes", "porous")],
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the records and the page of a run of the smallest size."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_solvers, "jobs", lambda quick, added: SMALL)
        command = ["bench", "solvers", "--quick", "--records", folder / "r.jsonl", "--html", folder / "page.html"]
        assert main([str(part) for part in command]) == 0
    return folder


def test_everybody_has_a_record_and_the_schema_holds(measured):
    lines = read(measured / "r.jsonl")
    assert len(lines) == sum(len(job.methods) for job in SMALL)
    status = {(x["problem"], x["method"]): x["status"] for x in lines if x["more"]["part"] == "tolerance"}
    assert status[BOX, "krylearn"] == status[BOX, "scipy-cg-ilu"] == status[BOX, "transforms"] == "CONVERGED"
    assert status["lognormal", "transforms"] == "UNSUITED"
    for line in lines:
        assert line["more"]["ceilings"]["copy_gbs"] > 0
        assert line["status"] != "CONVERGED" or line["true_relres"] <= line["tolerance"]
    paired = [x for x in lines if x["method"] == "pyamg-rs" and x["more"]["part"] == "tolerance"]
    assert all(len(x["more"]["interval"]) == 2 for x in paired)
    own = [x for x in lines if x["method"] == "krylearn"]
    assert all(x["more"]["roofline"] > 0 for x in own)


def test_the_page_has_every_section_and_holds_all_its_pictures(measured):
    text = (measured / "page.html").read_text()
    for name in ("tolerance", "convergence", "setup", "sizes", "families", "methods"):
        assert f'<section id="{name}">' in text
    pictures = re.findall(r'<img src="([^"]{0,30})', text)
    assert len(pictures) >= 5
    assert all(p.startswith("data:image/png;base64,") for p in pictures)
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page asks for something outside itself"
    assert text.count('alt="') == len(pictures)
    assert "amgx is absent" in text


def browser(folder, page, *options):
    command = [
        CHROME, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--enable-logging=stderr", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(CHROME is None, reason="needs chromium or chrome, e.g. Debian's package chromium")
def test_a_real_browser_shows_every_picture_and_reports_no_error(measured, tmp_path):
    """The pictures' natural sizes are asked for by a script added to a copy, and read from the page that it leaves."""
    page = measured / "page.html"
    script = "document.title='seen '+JSON.stringify([...document.images].map(i=>i.naturalWidth))"
    probe = f"<script>window.onload=()=>{{{script}}}</script>"
    copy = tmp_path / "probe.html"
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    shown = browser(tmp_path / "a", copy, "--dump-dom")
    widths = json.loads(re.search(r"<title>seen (\[.*?\])</title>", shown.stdout)[1])
    assert len(widths) == page.read_text().count("<img ")
    assert min(widths) > 300
    picture = tmp_path / "page.png"
    drawn = browser(tmp_path / "b", page, "--hide-scrollbars", "--window-size=1280,4000", f"--screenshot={picture}")
    for output in (shown, drawn):
        assert "CONSOLE" not in output.stderr
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == 1280
    assert pixels.std() > 20
    assert (pixels[: pixels.shape[0] // 2] < 128).any(axis=1).mean() > 0.3


def test_pictures_may_also_be_files(measured, tmp_path):
    write_page(tmp_path / "p.html", measured / "r.jsonl", before=measured / "r.jsonl", pictures=tmp_path / "png")
    assert {"tolerance.png", "sizes.png", "families.png"} <= {file.name for file in (tmp_path / "png").iterdir()}
    assert "no change beyond the noise" in (tmp_path / "p.html").read_text()


def test_report_makes_the_page_of_a_file(measured, tmp_path, capsys):
    records = str(measured / "r.jsonl")
    assert main(["report", "--html", str(tmp_path / "x.html"), "--records", records]) == 0
    assert (tmp_path / "x.html").exists()
    assert main(["report", "--html", str(tmp_path / "y.html"), "--records", str(tmp_path / "no.jsonl")]) == 2
    assert "holds no records" in capsys.readouterr().err


LINE = {
    "experiment": "solvers", "method": "cg", "problem": "box", "shape": [8, 8], "status": "CONVERGED", "products": 9,
    "iterations": 9.0, "solve_s": 1.0, "spread_s": [0.95, 1.1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("new", "found"),
    [
        ({}, []),
        ({"solve_s": 1.08, "spread_s": [1.05, 1.2]}, []),  # the ranges overlap
        ({"solve_s": 1.04, "spread_s": [1.101, 1.2]}, []),  # below the threshold
        ({"solve_s": 1.5, "spread_s": [1.4, 1.6]}, ["solve"]),
        ({"solve_s": 0.5, "spread_s": [0.4, 0.6]}, ["solve"]),
        ({"products": 10, "iterations": 9.8}, ["products", "iterations"]),
        ({"status": "MAXITER", "solve_s": None}, ["status"]),
        ({"problem": "other"}, ["only before", "only after"]),
    ],
)
def test_only_what_is_beyond_the_noise_counts_as_changed(new, found):
    assert [row[2] for row in changes([LINE], [LINE | new])] == found


@pytest.mark.parametrize(
    ("setup", "solve", "verdict"),
    [(9.0, 1.0, "from 9 solves on"), (0.5, 1.0, "always"), (5.0, 3.0, "never"), (0.0, 2.25, "for up to 4 solve(s)")],
)
def test_break_even(setup, solve, verdict):
    base = {"problem": "box", "shape": [8, 8], "unknowns": 64, "tolerance": 1e-6}
    ours = base | {"method": "krylearn", "setup_s": 1.0, "solve_s": 2.0}
    other = base | {"method": "rival", "setup_s": setup, "solve_s": solve}
    assert break_even([ours, other])[0]["rows"][0][-1] == verdict


def test_records_of_several_machines_make_one_page(measured, tmp_path):
    lines = read(measured / "r.jsonl")
    for name, cpu in (("a", "Processor A"), ("b", "Processor B")):
        text = "\n".join(json.dumps(x | {"machine": x["machine"] | {"cpu": cpu}}) for x in lines)
        (tmp_path / f"{name}.jsonl").write_text(text + "\n")
    page = tmp_path / "page.html"
    assert main(["report", "--records", str(tmp_path), "--html", str(page)]) == 0
    text = page.read_text()
    for cpu in ("Processor A", "Processor B"):
        assert text.count(f"<caption>lognormal ({cpu}") >= 1, cpu
    assert '<section id="profiles">' in text
    merged = merged_runs(tmp_path)
    assert len(merged) == 2 * len(lines)
    assert len({x["problem"] for x in merged}) == 2 * len({x["problem"] for x in lines})


def test_a_folder_without_records_says_what_it_expected(tmp_path, capsys):
    assert main(["report", "--records", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "one file per machine" in capsys.readouterr().err
