"""The web pages as a reader meets them: headless Chromium, wide and narrow, light and dark. `make test-pages`.

Needs `pip install "krylearn[pages]"` and a Chromium on the machine (Debian's package chromium, or CHROMIUM=/path).
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic",
]  # fmt: skip
NARROW, WIDE = 400, 1280


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files without a line per request."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the pages, and the page of a quick `krylearn bench solvers`; serve both on this machine only."""
    pytest.importorskip("sphinx", reason='pip install "krylearn[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", folder / "trees"]
    built = subprocess.run([*command, ROOT / "docs", folder / "pages"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    report = folder / "pages" / "krylearn-report.html"
    records = folder / "records.jsonl"
    quick = ["bench", "solvers", "--quick", "--records", records, "--html", report]
    done = subprocess.run([sys.executable, "-m", "krylearn.bench.cli", *quick], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    handler = functools.partial(Quiet, directory=str(folder / "pages"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder / "pages", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason='pip install "krylearn[pages]"')
    if CHROMIUM is None:
        pytest.skip("needs Chromium, e.g. Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


def pages_of(folder):
    """List what a reader can reach: every page but the search index and highlighted source code."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    return [name for name in found if not name.startswith(("_modules/", "genindex", "py-modindex", "search"))]


def visit(browser, address, width, scheme):
    """Open a page; return it with everything that the browser complained about."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"not loaded: {request.url}"))
    page.goto(address, wait_until="load")
    return page, complaints


@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "light"), (NARROW, "dark"), (WIDE, "light"), (WIDE, "dark")])
def test_every_page_loads_quietly_and_fits(site, browser, width, scheme):
    folder, address = site
    wrong = []
    for name in pages_of(folder):
        page, complaints = visit(browser, f"{address}/{name}", width, scheme)
        wrong += [f"{name}: {text}" for text in complaints]
        over = page.evaluate("document.scrollingElement.scrollWidth") - width
        wrong += [f"{name}: {over} px wider than the window"] if over > 0 else []
        page.close()
    assert not wrong, "\n".join(wrong)


def test_every_picture_has_a_text_and_every_link_leads_somewhere(site, browser):
    folder, address = site
    wrong = []
    for name in pages_of(folder):
        page, _ = visit(browser, f"{address}/{name}", WIDE, "light")
        wrong += [
            f"{name}: picture without a text"
            for alt in page.eval_on_selector_all("img", "e => e.map(i => i.alt)")
            if not alt
        ]
        for link in page.eval_on_selector_all("a[href]", "e => e.map(a => a.href)"):
            if link.startswith(address):
                path, _, anchor = link.removeprefix(address + "/").partition("#")
                target = folder / (path or "index.html")
                there = target.is_file() and (not anchor or f'id="{anchor}"' in target.read_text(encoding="utf-8"))
                wrong += [] if there else [f"{name}: {link.removeprefix(address)} leads nowhere"]
        page.close()
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("words", ["preconditioner", "CurvatureTuner", "benchmarks"])
def test_the_search_finds_what_is_there(site, browser, words):
    _, address = site
    page, complaints = visit(browser, f"{address}/search.html?q={words}", WIDE, "light")
    page.wait_for_selector("#search-results ul.search li a", timeout=30_000)
    assert not complaints
    page.close()
