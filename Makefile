# krylearn: `make help` lists what can be made. Only Python >= 3.11 is needed beforehand; every target may be repeated.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# pip and krylearn are run as modules of this interpreter: nothing depends on an activated environment
RUN    := $(BIN)/python

# the installed environment is as new as the files that describe it
READY       := $(VENV)/.krylearn-ready
CHECK_READY := $(VENV)/.krylearn-check-ready
DOCS_READY  := $(VENV)/.krylearn-docs-ready
PAGES_READY := $(VENV)/.krylearn-pages-ready
WHEEL_SITE  := build/check-site
# several ranks: Debian's PETSc wants Debian's Python and NumPy < 2, so these tests have an environment of their own
PETSC_VENV   := .venv-petsc
PETSC_READY  := $(PETSC_VENV)/.krylearn-ready
PETSC_PYTHON ?= /usr/bin/python3
PETSC_DEBS   := python3-venv python3-petsc4py-real openmpi-bin

PACKAGES := krylearn.pde krylearn.solvers krylearn.optim krylearn.bench
# waiting threads sleep: where they spin, a second job on the machine makes the tests ten times slower
PYTEST   := OMP_WAIT_POLICY=passive $(RUN) -m pytest
ARGS     ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-pages test-distributed test-integrations test-versions fuzz check bench report docs wheel clean distclean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=...  the interpreter for the environment (now: $(PYTHON));  ARGS=...  extra arguments of demo, test, bench"

demo: $(READY)  ## smoke past a moving obstacle, solved and compared; leaves a picture, an animation and a table in demo-output/
	$(RUN) -m krylearn.bench.cli demo --output demo-output $(ARGS)
	@echo "Pictures: $(CURDIR)/demo-output/summary.png and $(CURDIR)/demo-output/smoke.gif"

test: $(READY)  ## the tests that .ci/run runs (under 15 minutes on two cores)
	$(PYTEST) -m "not slow and not browser" $(ARGS)

test-slow: $(READY)  ## the long tests
	$(PYTEST) -m slow $(ARGS)

test-pages: $(PAGES_READY)  ## the web pages in headless Chromium (Debian: apt-get install chromium)
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "NOT RUN: needs Chromium, e.g. apt-get install chromium, or CHROMIUM=/path"; exit 77; }
	$(PYTEST) -m browser tests/test_pages_in_browser.py $(ARGS)

test-integrations: $(READY)  ## the plug-ins with the real packages, in an environment that is deleted afterwards
	$(RUN) tests/solvers/integrations/with_packages.py $(ARGS)

test-versions: $(READY)  ## a subset under Python 3.12 and 3.13, and with lowest and newest packages; ARGS="3.12 lowest" chooses
	$(RUN) tests/with_versions.py $(ARGS)

fuzz: $(READY)  ## random and hostile input for some minutes; ARGS="files --seed 7", "kills --count 200", "systems ..." choose
	nice $(RUN) -m tests.fuzz $(ARGS)

test-distributed: $(PETSC_READY)  ## install PETSc and MPI (Debian, as root), and run the tests of 1 to 8 ranks (under 10 minutes)
	OMP_NUM_THREADS=1 $(PETSC_VENV)/bin/python -m pytest tests/solvers/distributed tests/bench/rivals/test_petsc.py tests/bench/studies/solvers/test_rank_contest.py $(ARGS)

check: $(READY) $(CHECK_READY)  ## lint, format, import arrows, and types of the installed wheel
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(PYTEST) -q tests/test_imports.py tests/test_packaging.py
	rm -rf build
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --target $(WHEEL_SITE) .
	cd $(WHEEL_SITE) && MYPYPATH=. "$(CURDIR)/$(RUN)" -m mypy --config-file "$(CURDIR)/pyproject.toml" \
	  --cache-dir "$(CURDIR)/.mypy_cache" --namespace-packages --explicit-package-bases $(PACKAGES:%=-p %)

bench: $(READY)  ## measure again and append to bench/studies/records/ (about an hour); then `make report`
	$(RUN) -m krylearn.bench.cli bench families $(ARGS)
	$(RUN) -m krylearn.bench.cli bench headline $(ARGS)

report: $(READY)  ## write the README tables and docs/images again from bench/studies/records/
	$(RUN) -m krylearn.bench.cli report

docs: $(DOCS_READY)  ## build the web pages into build/docs/ (warnings are errors)
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "Pages: $(CURDIR)/build/docs/index.html"

wheel: $(CHECK_READY)  ## build the wheel into dist/
	$(RUN) -m build --wheel --no-isolation

clean:  ## remove what was built and measured here, keep the environment
	rm -rf build dist demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the environment too
	rm -rf $(VENV) $(PETSC_VENV)

# A stamp is touched only after everything before it succeeded, so an interrupted installation is simply repeated.
$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "krylearn needs Python >= 3.11; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1 || echo missing). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(RUN)" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2; exit 1; }
	$(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

$(CHECK_READY): $(READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[check]"
	@touch $@

$(DOCS_READY): $(READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@

$(PAGES_READY): $(DOCS_READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[pages]"
	@touch $@

# not --no-install-recommends: the package that can be imported is only recommended. NumPy 2 is another binary interface
# than the one that Debian's petsc4py was built for.
$(PETSC_READY): pyproject.toml constraints.txt
	@ls -d /usr/lib/petscdir/*/*-real/lib/python3/dist-packages/petsc4py >/dev/null 2>&1 && command -v mpirun >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq $(PETSC_DEBS) >/dev/null; } || { \
	  echo "the tests of several ranks need Debian's packages: apt-get install $(PETSC_DEBS)" >&2; exit 1; }
	"$(PETSC_PYTHON)" -m venv --clear $(PETSC_VENV)
	$(PETSC_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --editable . "numpy<2" mpi4py pytest hypothesis matplotlib "setuptools>=77.0.3"
	ls -d /usr/lib/petscdir/*/*-real/lib/python3/dist-packages > "$$($(PETSC_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/petsc-debian.pth"
	$(PETSC_VENV)/bin/python -c "from krylearn.solvers.distributed.petsc_library import load_petsc; load_petsc()"
	@touch $@
