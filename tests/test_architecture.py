"""The tree shows the architecture: an order of sub-packages, no circles, small folders, tests that mirror it."""

import importlib
from collections import Counter

import pytest
from import_graph import PACKAGES, ROOT, circles, file_graph, folder_graph, modules, name_of

# lower ones never import higher ones; files beside the sub-packages have their place in the same order
ORDER = {
    "pde": ("kernel_cache", "compiled", "poisson", "transforms", "scenes", "simulations"),
    "solvers": (
        "files", "lanczos", "kernels", "multigrid", "krylov", "front_door", "training", "published", "interop",
        "integrations", "distributed",
    ),
    "optim": (
        "progress", "side_effects", "curvature", "spectra", "batch_noise", "sharpness_meters", "batch_size", "tuner",
        "integrations", "callbacks", "testing",
    ),
    "bench": ("measure", "show", "rivals", "solvers", "optim", "studies", "report", "cli"),
}  # fmt: skip
GRAPHS = {package: file_graph(package) for package in PACKAGES}
MODULES_PER_FOLDER = 16  # more than that nobody overlooks
WITH_ONE_PREFIX = 3  # a fourth module with the same first word is a folder
FOLDERS = sorted({file.parent for package in PACKAGES for file in modules(package).values()})


def part_of(name):
    """Return the sub-package or file directly below a package that a module belongs to; None for the package itself."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 else None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_part_has_its_place_in_the_order(package):
    parts = {part_of(name) for name in modules(package)} - {None}
    assert parts <= set(ORDER[package]), "say in ORDER where a new part stands"


def upward(graph, order):
    """List the imports that go from a lower part to a higher one."""
    place = {part: k for k, part in enumerate(order)}
    return [
        f"{name} imports {other}"
        for name, found in graph.items()
        for other in found
        if None not in (part_of(name), part_of(other)) and place[part_of(name)] < place[part_of(other)]
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_downwards_only(package):
    assert not upward(GRAPHS[package], ORDER[package])


def test_an_import_that_runs_upwards_is_found():
    graph = {"krylearn.pde.poisson.grid": {"krylearn.pde.scenes.mazes"}, "krylearn.pde.scenes.mazes": set()}
    assert upward(graph, ORDER["pde"]) == ["krylearn.pde.poisson.grid imports krylearn.pde.scenes.mazes"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other(package):
    assert not circles(GRAPHS[package])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("package", PACKAGES)
def test_no_folders_import_each_other(package, depth):
    assert not circles(folder_graph(GRAPHS[package], package, depth))


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_can_be_overlooked(folder):
    names = [file.stem for file in folder.glob("*.py") if file.stem not in ("__init__", "__main__")]
    assert len(names) <= MODULES_PER_FOLDER
    prefixes = Counter(name.split("_")[0] for name in names)
    assert not {prefix: n for prefix, n in prefixes.items() if n > WITH_ONE_PREFIX}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_the_name_of_a_public_function(package):
    """Importing `solvers/dcdm/` would put a module in the place of the function `solvers.dcdm`."""
    top = set(getattr(importlib.import_module(f"krylearn.{package}"), "__all__", ()))
    for name in modules(package):
        parent, _, last = name.rpartition(".")
        public = top | set(getattr(importlib.import_module(parent), "__all__", ()))
        assert last not in public, f"{name} has the name of a public function"


def test_tests_mirror_the_tree():
    """Every folder of tests/PACKAGE is a folder of the package, and a test file stands beside what it tests."""
    for package in PACKAGES:
        for file in (ROOT / "tests" / package).rglob("test_*.py"):
            here = file.parent.relative_to(ROOT / "tests")
            assert (ROOT / here).is_dir(), f"{file.relative_to(ROOT)} mirrors no folder"


def test_names_are_read_as_they_are_installed():
    assert name_of(ROOT / "solvers" / "krylov" / "__init__.py") == "krylearn.solvers.krylov"
    assert name_of(ROOT / "pde" / "transforms.py") == "krylearn.pde.transforms"
