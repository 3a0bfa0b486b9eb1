"""Who may import whom, what an import may load, and that the public names are there in whatever order one imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pde", "solvers", "optim", "bench")
ALLOWED = {
    "pde": (),
    "solvers": ("krylearn.pde",),
    "optim": ("krylearn.solvers.lanczos",),
    "bench": ("krylearn.pde", "krylearn.solvers", "krylearn.optim"),
}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}
# modules that are made of a heavy package; others import them inside functions, as the tests of fresh interpreters show
MADE_OF = {
    "solvers/kernels": {"numba", "triton"},
    "solvers/multigrid/setup_cpu": {"numba"},
    "solvers/multigrid/setup_pieces": {"numba"},
    "solvers/multigrid/setup_cuda": {"triton"},
    "solvers/training": {"lightning"},
}
EXTRAS = ("lightning", "pyamg", "matplotlib", "PIL", "pytest_benchmark", "triton", "cupy", "petsc4py")


def imported(tree, package):
    """(absolute name, level, line) of every import anywhere in a module, names taken from a package spelled out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module in ("krylearn", *(f"krylearn.{p}" for p in PACKAGES)):
                yield from ((f"{module}.{alias.name}", 0, node.lineno) for alias in node.names)
            else:
                yield module, node.level, node.lineno


@pytest.mark.parametrize(("package", "file"), [(p, f) for p in PACKAGES for f in FILES[p]], ids=str)
def test_import_arrows(package, file):
    depth = len(file.relative_to(ROOT / package).parts)
    for name, level, line in imported(ast.parse(file.read_text()), package):
        where = f"{file.name}:{line} imports {'.' * level}{name}"
        if level:
            assert level <= depth, f"{where}: a relative import leaves the package"
        elif name.split(".")[0] == "krylearn":
            assert not name.startswith(f"krylearn.{package}."), f"{where}: inside a package imports are relative"
            assert any(name == a or name.startswith(f"{a}.") for a in ALLOWED[package]), f"{where}: not allowed"


@pytest.mark.parametrize(("package", "file"), [(p, f) for p in PACKAGES for f in FILES[p]], ids=str)
def test_heavy_packages_are_imported_inside_functions(package, file):
    place = file.relative_to(ROOT).as_posix()
    granted = {heavy for start, names in MADE_OF.items() if place.startswith(start) for heavy in names}
    for node in ast.parse(file.read_text()).body:  # module level only
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        heavy = {name.split(".")[0] for name in names} & {"numba", *EXTRAS} - granted
        assert not heavy, f"{file.name}:{node.lineno} imports {heavy} at module level"


def test_test_catches_a_wrong_arrow():
    tree = ast.parse("def f():\n    from krylearn.solvers import cg\n")
    assert list(imported(tree, "pde")) == [("krylearn.solvers.cg", 0, 2)]


def run(code):
    """Run code in a fresh interpreter, warnings being errors there too."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["optim", "solvers", "pde"])
def test_importing_loads_no_numba(package):
    run(f"import sys, krylearn.{package}; assert 'numba' not in sys.modules, 'numba is loaded'")


def test_every_package_imports_without_the_extras():
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in EXTRAS)
    names = ", ".join(f"krylearn.{p}" for p in PACKAGES)
    run(f"import sys\n{hidden}import {names}, krylearn.bench.cli\nkrylearn.bench.cli.parser()")


NAMES_ARE_CALLABLE = """
import importlib, types
for package in ("krylearn.pde", "krylearn.solvers", "krylearn.optim", "krylearn.bench"):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        assert not isinstance(value, types.ModuleType), f"{package}.{name} is a module"
        assert callable(value) or not name[0].islower(), f"{package}.{name} = {value!r} cannot be called"
"""


@pytest.mark.parametrize("shift", range(4))
def test_public_names_are_callable_after_any_order_of_imports(shift):
    modules = [module_name(file) for package in PACKAGES for file in FILES[package]]
    modules = [name for name in modules if not name.endswith("__main__")]
    order = modules[:: -1 if shift % 2 else 1]
    cut = len(order) * (shift // 2) // 2
    body = "\n".join(f"importlib.import_module({name!r})" for name in order[cut:] + order[:cut])
    run(f"import importlib\n{body}\n{NAMES_ARE_CALLABLE}")


def module_name(file):
    """The installed name of a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("krylearn", *(part for part in parts if part != "__init__")))
