"""Solvers and systems of other people, in our benchmarks: a file with one function, or an entry point.

A rival is a function `setup(system)`; `system.matrix` is a SciPy CSR array over the unknowns, `system.A` the grid
operator where there is one. It returns either what SciPy's `cg` takes as preconditioner, or a function `solve(b, rtol)`
that returns x; success is judged by the true residual, and set-up and solve are timed as everybody's. A system is a
function `system()` that returns (matrix or `Poisson`, b). Files are executed:
benchmark only what you trust.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ..measure.console import UsageError
from .table import Peer

GROUP = "krylearn.rivals"  # of entry points; each names a function setup(system)


def load_rival(path: Path) -> Peer:
    r"""Read a rival from a file: `setup(system)`, and if it says so NAME, CONFIG and VERSION.

    Parameters
    ----------
    path : Python file; it is executed

    Raises
    ------
    UsageError
        If there is no such file, it fails, or it has no function `setup`.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.py"
    >>> _ = file.write_text("def setup(system):\n    return lambda b, rtol: b / system.matrix.diagonal()\n")
    >>> load_rival(file).name
    'mine'
    """
    module = _execute(path)
    setup = _function(module, "setup", path)
    described = inspect.getdoc(setup) or "setup(system) without a docstring"
    config = getattr(module, "CONFIG", described.splitlines()[0])
    name, version = (str(getattr(module, key, usual)) for key, usual in (("NAME", path.stem), ("VERSION", path.name)))
    return own_peer(name, setup, str(config), version)


def load_system(path: Path) -> tuple[Any, Any]:
    r"""Call `system()` of a file: (matrix or `Poisson`, b).

    Raises
    ------
    UsageError
        If there is no such file, it fails, or `system()` does not return two things.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.py"
    >>> _ = file.write_text("import numpy as np\ndef system():\n    return np.eye(2), np.ones(2)\n")
    >>> load_system(file)[1].tolist()
    [1.0, 1.0]
    """
    made = _function(_execute(path), "system", path)()
    if not (isinstance(made, tuple) and len(made) == 2):
        raise UsageError(f"system() of {path} returned {type(made).__name__}; expected (matrix or Poisson, b)")
    return made


def installed_rivals() -> dict[str, Peer]:
    """Find the rivals that installed packages offer as entry points of the group "krylearn.rivals".

    Examples
    --------
    >>> isinstance(installed_rivals(), dict)
    True
    """
    found = {}
    for point in metadata.entry_points(group=GROUP):
        version = point.dist.version if point.dist is not None else "unknown"
        found[point.name] = own_peer(point.name, _Late(point), f"{point.value} of an installed package", version)
    return found


def own_peer(name: str, setup: Callable[[Any], Any], config: str, version: str) -> Peer:
    """Return a rival that needs no package to be looked for.

    Examples
    --------
    >>> own_peer("mine", lambda system: None, "nothing at all", "1").absent is None
    True
    """
    return Peer(name, config, "", setup, found=version)


class _Late:
    """An entry point's function, imported when it is first set up: listing rivals runs nobody's code."""

    def __init__(self, point: metadata.EntryPoint) -> None:
        self.point = point

    def __call__(self, system: Any) -> Any:
        """Set up."""
        return self.point.load()(system)


def _execute(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; expected a Python file with a function setup(system) or system()")
    spec = importlib.util.spec_from_file_location(f"krylearn_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; expected one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file does, the message says where
        raise UsageError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    return module


def _function(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{path} has no function {name}; see `krylearn bench solvers --help`")
    return function
