"""What is installed is what stands in the tree, and the wheel is complete."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOP = ("pde", "solvers", "optim", "bench")


def test_the_package_list_equals_the_tree():
    folders = {init.parent.relative_to(ROOT) for top in TOP for init in (ROOT / top).rglob("__init__.py")}
    in_tree = {"krylearn." + ".".join(folder.parts) for folder in folders if "studies" not in folder.parts}
    assert set(SETUPTOOLS["packages"]) == in_tree
    assert SETUPTOOLS["package-dir"] == {f"krylearn.{top}": top for top in TOP}


@pytest.mark.parametrize("package", TOP)  # their sub-packages are typed by the same marker (PEP 561)
def test_every_package_is_typed(package):
    assert (ROOT / package / "py.typed").exists()
    assert "py.typed" in SETUPTOOLS["package-data"][f"krylearn.{package}"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build folder of this tree could add files that are no longer in it."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("the source is no git checkout")
    for name in listing.stdout.split("\n"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, copy]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (file,) = out.glob("krylearn-*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_all_modules_and_nothing_outside_our_name(wheel):
    names = set(wheel.namelist())
    tree = [path.relative_to(ROOT) for top in TOP for path in (ROOT / top).rglob("*.py")]
    modules = {f"krylearn/{path}" for path in tree if "studies" not in path.parts}
    assert modules == {name for name in names if name.endswith(".py")}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"krylearn"}


def test_the_wheel_holds_weights_cards_and_markers(wheel):
    names = wheel.namelist()
    assert {f"krylearn/{top}/py.typed" for top in TOP} <= set(names)
    weights = [name for name in names if name.endswith(".safetensors")]
    assert any("2d" in name for name in weights)
    assert any("3d" in name for name in weights)
    assert {name.replace(".safetensors", ".json") for name in weights} <= set(names)


def test_the_wheel_holds_no_study_no_record_and_no_data_of_one(wheel):
    names = wheel.namelist()
    assert not [name for name in names if "studies" in name or name.endswith((".jsonl", ".gz"))]


def test_the_wheel_states_licence_entry_point_and_extras(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: BSD-3-Clause" in metadata
    for extra in ("train", "bench", "cuda", "test", "check"):
        assert f"Provides-Extra: {extra}" in metadata
    assert "krylearn = krylearn.bench.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_torch_is_pinned_by_the_constraints_and_not_by_the_metadata():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert any(line.startswith("torch>=") for line in PROJECT["project"]["dependencies"])


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "test-pages", "check", "bench", "report", "clean"])
def test_make_help_lists_the_target(target):
    shown = subprocess.run(["make", "--no-print-directory", "-C", ROOT, "help"], capture_output=True, text=True)
    assert any(line.split()[:2] == ["make", target] for line in shown.stdout.splitlines())


def test_make_says_which_python_it_needs(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    command = ["make", "-C", tmp_path, "test", f"PYTHON={old}"]
    tried = subprocess.run(command, capture_output=True, text=True)
    assert tried.returncode != 0
    assert "krylearn needs Python >= 3.11" in tried.stderr
    assert "Python 3.8.1" in tried.stderr


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if "make " in line and not line.startswith("#")]
    assert commands[0] == "make test || exit 1"  # first, and nothing else decides before it
    assert script.stat().st_mode & 0o111
    assert "make test" in (ROOT / "README.md").read_text()


def requirement(text):
    """Split "numpy>=1.26" or "numpy >=1.26" into name and range."""
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", text)
    return found[1], found[2].replace(" ", "")


def test_the_conda_recipe_asks_for_what_the_project_asks_for():
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    project = PROJECT["project"]
    named = {"torch": "pytorch"}  # names that differ between the two worlds
    wanted = {named.get(name, name): bounds for name, bounds in map(requirement, project["dependencies"])}
    wanted["python"] = project["requires-python"]
    assert dict(map(requirement, recipe["requirements"]["run"])) == wanted
    assert recipe["context"]["version"] == project["version"]
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in project["scripts"].items()]
    assert dict(map(requirement, recipe["requirements"]["host"]))["setuptools"] == ">=77.0.3"


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"## [{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()
