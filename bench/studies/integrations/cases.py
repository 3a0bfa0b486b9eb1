"""The systems of `krylearn study integrations`, posed with the packages themselves.

A case is a generator function that yields `System`s; a system has entrants, each a function of a tolerance that returns
the quantity which the package's user wants. Where a whole call is mostly assembly, an entrant returns the seconds of
its linear part along with the answer.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LADDER = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
LIMIT = 120.0  # processor seconds of a direct method; what takes longer is recorded as that
Answer = Any


@dataclass
class Entrant:
    """One way to solve a system.

    role : "default", "fastest" (of the package's own modes) or "ours"
    run : tolerance -> answer, or (answer, processor seconds) where a part alone counts
    ladder : tolerances from loose to tight; None stands for a direct method
    limited : run in a process of its own that ends after LIMIT
    """

    role: str
    name: str
    run: Callable[..., Answer]  # lambdas bind what they need as defaults
    ladder: tuple[Any, ...] = LADDER
    limited: bool = False


@dataclass
class System:
    """What is solved, and how far an answer may be from the right one.

    lines : of the user's code that change;  part : "whole call" or "linear part"
    error : answer -> distance from the right one, in the quantity that the user wants;  accuracy : largest allowed
    """

    package: str
    name: str
    shape: tuple[int, ...]
    lines: int
    part: str
    quantity: str
    error: Callable[[Answer], float]
    accuracy: float
    entrants: list[Entrant] = field(default_factory=list)


def relative_to(right: Any) -> Callable[[Any], float]:
    """Return the largest distance from the right numbers, relative to the largest of them.

    >>> relative_to([2.0, 4.0])([2.0, 3.0])
    0.25
    """
    known = np.asarray(right)
    return lambda answer: float(np.abs(np.asarray(answer) - known).max() / np.abs(known).max())


class Clock:
    """Adds up the processor seconds of methods of a class, wherever they are called from.

    Examples
    --------
    >>> class Sleeper:
    ...     def work(self):
    ...         return sum(range(100_000))
    >>> with Clock((Sleeper, "work")) as clock:
    ...     _ = Sleeper().work()
    >>> clock.seconds > 0
    True
    """

    def __init__(self, *methods: tuple[Any, str]) -> None:
        self.methods = [(owner, name) for owner, name in methods if hasattr(owner, name)]
        self.seconds, self._depth = 0.0, 0
        self._before: list[Any] = []

    def __enter__(self) -> Clock:
        """Put timed methods in place of the class's own."""
        for owner, name in self.methods:
            original = getattr(owner, name)
            self._before.append((owner, name, owner.__dict__.get(name)))
            setattr(owner, name, self._timed(original))
        return self

    def __exit__(self, *_: Any) -> None:
        """Put the class's own back."""
        for owner, name, own in reversed(self._before):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start, self._depth = time.process_time(), self._depth + 1
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:  # one timed method may call another
                    self.seconds += time.process_time() - start

        return run


# --- matrices ---------------------------------------------------------------------------------------------------------
def scipy_systems() -> Iterator[System]:
    """Yield matrices as scripts make them: a negative Laplacian, an image with coefficients."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla
    from krylearn.pde import Poisson
    from krylearn.solvers import solve_matrix

    def systems() -> Iterator[tuple[str, tuple[int, ...], Any]]:
        for n in (16, 32, 48, 64):
            line = sp.diags_array([np.ones(n - 1), -2 * np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
            yield "negative Laplacian", (n, n, n), sp.csr_array(sp.kronsum(sp.kronsum(line, line), line))
        weights = np.random.default_rng(41017).lognormal(size=(512, 512))
        A = Poisson.from_coefficients(weights, boundary={"x": "dirichlet", "y": "neumann"}).matrix()
        yield "coefficients of an image", (512, 512), sp.csr_array(A)

    for name, shape, A in systems():
        b = np.random.default_rng(41011).standard_normal(A.shape[0])
        right = solve_matrix(A, b, rtol=1e-11)[0]
        C, sign = sp.csc_array(A), np.sign(A.diagonal()[0])

        def by_cg(tol: float, A: Any = A, b: Any = b, sign: float = sign) -> Any:
            return spla.cg(sign * A, sign * b, rtol=tol, maxiter=20_000)[0]

        entrants = [
            Entrant("fastest", "cg", by_cg),
            Entrant("ours", "solve_matrix", lambda tol, A=A, b=b: solve_matrix(A, b, rtol=tol)[0]),
        ]
        large = A.shape[0] > 50_000 and len(shape) == 3
        entrants.insert(0, Entrant("default", "spsolve", lambda _, C=C, b=b: spla.spsolve(C, b), (None,), large))
        yield System("SciPy", name, shape, 1, "whole call", "x", relative_to(right), 1e-5, entrants)


# --- images -----------------------------------------------------------------------------------------------------------
def _ball(shape: tuple[int, ...], dense: bool) -> tuple[Any, Any]:
    rng = np.random.default_rng(41023)
    at = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(x * x for x in at) < 0.4
    seeds = np.zeros(shape, dtype=np.int32)
    if dense:
        seeds = np.where(rng.random(shape) < 0.3, 1 + inside, 0).astype(np.int32)
    else:
        seeds[tuple(n // 2 for n in shape)], seeds[(0,) * len(shape)] = 2, 1
    return inside + 0.35 * rng.standard_normal(shape), seeds


def skimage_systems() -> Iterator[System]:
    """Yield segmentations of a ball in noise: two seeds, and seeds in a third of all voxels."""
    from krylearn.solvers.integrations.skimage import random_walker
    from skimage.segmentation import random_walker as theirs

    for n, dense in itertools.product((16, 32, 48, 64), (True, False)):
        data, seeds = _ball((n, n, n), dense)
        right = random_walker(data, seeds, tol=1e-10, return_full_prob=True)
        given = {"return_full_prob": True}

        def walk(mode: str, tol: float, data: Any = data, seeds: Any = seeds, given: Any = given) -> Any:
            return theirs(data, seeds, mode=mode, tol=tol, prob_tol=1.0, **given)

        entrants = [
            Entrant("default", "cg_j", lambda tol, walk=walk: walk("cg_j", tol)),
            Entrant("fastest", "cg_mg", lambda tol, walk=walk: walk("cg_mg", tol)),
            Entrant("ours", "random_walker", lambda tol, d=data, s=seeds: random_walker(
                d, s, tol=tol, prob_tol=1.0, return_full_prob=True)),
        ]  # fmt: skip
        name = "ball in noise, " + ("seeds in 30 %" if dense else "two seeds")

        def mislabelled(answer: Any, right: Any = right) -> float:
            return float((np.argmax(answer, axis=0) != np.argmax(right, axis=0)).mean())

        yield System(
            "scikit-image", name, (n, n, n), 1, "whole call", "share of wrong labels", mislabelled, 1e-3, entrants
        )


def blending_systems() -> Iterator[System]:
    """Yield the pasting of a disk of one megapixel image into another, in three channels."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla
    from krylearn.solvers.integrations.image_editing import poisson_blend

    for n in (64, 181, 332, 512):  # as many pixels as 16^3, 32^3, 48^3, 64^3
        rng = np.random.default_rng(41039)
        at = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
        mask = at[0] ** 2 + at[1] ** 2 < 0.7
        source, target = (rng.standard_normal((n, n, 3)).cumsum(axis=0).cumsum(axis=1) / n for _ in range(2))

        def by_hand(_: Any, n: int = n, mask: Any = mask, source: Any = source, target: Any = target) -> Any:
            number = np.full((n, n), -1)
            number[mask] = np.arange(mask.sum())
            rows, columns, b = [], [], np.zeros((int(mask.sum()), 3))
            i, j = np.nonzero(mask)
            for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                u, v = i + di, j + dj
                b += source[i, j] - source[u, v]
                inside = mask[u, v]
                rows.append(number[i, j][inside])
                columns.append(number[u, v][inside])
                b[~inside] += target[u, v][~inside]
            here, there = np.concatenate(rows), np.concatenate(columns)
            entries = (-np.ones(len(here)), (here, there))
            A = sp.csc_array(sp.coo_array(entries, shape=(len(b),) * 2)) + 4 * sp.eye_array(len(b), format="csc")
            out = target.copy()
            out[mask] = spla.splu(A).solve(b)
            return out

        right = by_hand(None)
        entrants = [
            Entrant("default", "splu, the usual script", by_hand, (None,)),
            Entrant("ours", "poisson_blend", lambda tol, s=source, t=target, m=mask: poisson_blend(s, t, m, rtol=tol)),
        ]
        yield System("image editing", "disk, 3 channels", (n, n), 1, "whole call", "pixels", relative_to(right), 1e-3,
                     entrants)  # fmt: skip


# --- porous media -----------------------------------------------------------------------------------------------------
def _porous(n: int) -> Any:
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(41047).standard_normal((n, n, n)), 2)
    return noise > np.quantile(noise, 0.4)


def taufactor_systems() -> Iterator[System]:
    """Yield the tortuosity of a blob of pores."""
    import taufactor
    from krylearn.solvers.integrations import taufactor as own
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    for n, part in ((16, "whole call"), (32, "whole call"), (48, "whole call"), (64, "whole call"),
                    (64, "linear part"), (96, "linear part")):  # fmt: skip
        image = _porous(n)
        right = effective_diffusivity(image, 0, ftol=1e-8).tau

        def theirs(tol: float, image: Any = image, part: str = part) -> Any:
            with contextlib.redirect_stdout(io.StringIO()):
                solver = taufactor.Solver(image.astype(int), device="cpu")
                with Clock((taufactor.Solver, "solve")) as clock:
                    solver.solve(conv_crit=tol, iter_limit=20_000, verbose=False)
            tau = float(np.ravel(solver.tau)[0])
            return tau if part == "whole call" else (tau, clock.seconds)

        def ours(tol: float, image: Any = image, part: str = part) -> Any:
            with Clock((own, "cg"), (own, "_improve_by_diagonal")) as clock:
                tau = effective_diffusivity(image, 0, ftol=tol).tau
            return tau if part == "whole call" else (tau, clock.seconds)

        ladder = (1e-1, 5e-2, *LADDER[:4])
        entrants = [
            Entrant("default", "Solver", theirs, ladder), Entrant("ours", "effective_diffusivity", ours, ladder)
        ]  # fmt: skip
        yield System("TauFactor", "blobs, 60 % pores", (n, n, n), 2, part, "tau", relative_to([right]), 1e-3, entrants)


def porespy_systems() -> Iterator[System]:
    """Yield the same image for PoreSpy."""
    import porespy
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    porespy.settings.tqdm = {"disable": True, "leave": False}
    for n in (16, 32, 48, 64):
        image = _porous(n)
        right = effective_diffusivity(image, 0, at="cells", ftol=1e-8).tau_percolating
        entrants = [
            Entrant("default", "tortuosity_fd", lambda tol, image=image: porespy.simulations.tortuosity_fd(
                image, 0, ftol=tol).tortuosity, (1e-1, *LADDER[:4])),
            Entrant("ours", "effective_diffusivity", lambda tol, image=image: effective_diffusivity(
                image, 0, at="cells", ftol=tol).tau_percolating, (1e-1, *LADDER[:4])),
        ]  # fmt: skip
        yield System("PoreSpy", "blobs, 60 % pores", (n, n, n), 2, "whole call", "tortuosity", relative_to([right]),
                     1e-3, entrants)  # fmt: skip


def openpnm_systems() -> Iterator[System]:
    """Yield diffusion through cubic networks of random throats.

    OpenPNM repeats a solve, up to 5,000 times, until its own residual is small: no tolerance but a tight one serves.
    """
    import openpnm as op
    from krylearn.solvers.integrations.openpnm import KrylearnSolver

    for n in (16, 32, 48, 64):
        network = op.network.Cubic(shape=[n, n, n], spacing=1e-4)
        phase = op.phase.Phase(network=network)
        throats = np.random.default_rng(41051).lognormal(sigma=1.0, size=network.Nt)
        phase["throat.diffusive_conductance"] = throats * 1e-12

        def rate(solver: Any, network: Any = network, phase: Any = phase) -> tuple[float, float]:
            fickian = op.algorithms.FickianDiffusion(network=network, phase=phase)
            fickian.set_value_BC(pores=network.pores("left"), values=1.0)
            fickian.set_value_BC(pores=network.pores("right"), values=0.0)
            with Clock((type(solver), "solve")) as clock:
                fickian.run(solver=solver)
            return float(fickian.rate(pores=network.pores("left"))[0]), clock.seconds

        name = op.Workspace().settings.default_solver
        default = getattr(op.solvers, name if _has("pypardiso") else "ScipySpsolve")
        tight = (1e-10,)
        entrants = [
            Entrant("fastest", "Ruge-Stuben", lambda tol, r=rate: r(op.solvers.PyamgRugeStubenSolver(tol=tol)), tight),
            Entrant("ours", "KrylearnSolver", lambda tol, rate=rate: rate(KrylearnSolver(tol=tol)), tight),
        ]  # fmt: skip
        direct = Entrant("default", default.__name__, lambda _, rate=rate, d=default: rate(d()), (None,), n >= 48)
        entrants.insert(0, direct)
        right = rate(KrylearnSolver(tol=1e-12))[0]
        yield System("OpenPNM", "cubic network", (n, n, n), 1, "linear part", "rate", relative_to([right]), 1e-4,
                     entrants)  # fmt: skip


# --- fluids and fields ------------------------------------------------------------------------------------------------
def phiflow_systems() -> Iterator[System]:
    """Yield projections of random velocities in a closed box with an obstacle, a geometry that stays.

    PhiML keeps flat indices of the matrix, row times columns, in 32 bits and fails above 46,340 cells with an
    obstacle: for 48^3 and 64^3 they get 64 bits, for every method. There velocities are wanted to 2 % only: its CG, on
    a bordered matrix in single precision, does not get to 0.1 % in 2000 iterations.
    """
    from krylearn.solvers.integrations.phiflow import krylearn_solves
    from phi import flow
    from phiml.backend import NUMPY

    kind = type(NUMPY)
    narrow = kind.ravel_multi_index
    kind.ravel_multi_index = lambda self, index, shape, mode="undefined": narrow(
        self, np.asarray(index, dtype=np.int64), shape, mode
    )
    for n, part in ((16, "whole call"), (32, "whole call"), (16, "linear part"), (32, "linear part"),
                    (48, "linear part"), (64, "linear part")):  # fmt: skip
        sizes = dict.fromkeys("xyz", n)
        domain = flow.Box(**{axis: float(n) for axis in sizes})
        velocity = flow.StaggeredGrid(flow.Noise(scale=4), 0, domain, **sizes)
        solid = flow.Obstacle(flow.Box(**{axis: (n / 4, n / 2) for axis in sizes}))

        def project(method: str, tol: float, velocity: Any = velocity, solid: Any = solid, part: str = part) -> Any:
            with Clock((kind, "linear_solve")) as clock:
                solve = flow.Solve(method, tol, max_iterations=2000)
                found, _ = flow.fluid.make_incompressible(velocity, solid, solve)
            field = np.asarray(found.at_centers().values.numpy("x,y,z,vector"))
            return field if part == "whole call" else (field, clock.seconds)

        def ours(tol: float, project: Any = project) -> Any:
            with krylearn_solves():
                return project("scipy-CG", tol)

        ladder = (
            1e-2,
            3e-3,
            1e-3,
            3e-4,
            1e-4,
            1e-5,
        )  # fields are in single precision: its CG does not get to 1e-4 at 48^3
        entrants = [
            Entrant("default", "auto", lambda tol, p=project: p("auto", tol), (None,), n >= 48),
            Entrant("fastest", "scipy-CG", lambda tol, project=project: project("scipy-CG", tol), ladder),
            Entrant("ours", "krylearn_solves", ours, ladder),
        ]
        right = ours(1e-9)
        error = relative_to(right[0] if part == "linear part" else right)
        accuracy = 1e-3 if n < 48 else 2e-2
        yield System("PhiFlow", "closed box, obstacle", (n, n, n), 1, part, "velocity", error, accuracy, entrants)


def pypde_systems() -> Iterator[System]:
    """Yield Poisson's equation on a square and a cube."""
    import scipy.sparse.linalg as spla
    from krylearn.solvers.integrations import scipy_functions
    from krylearn.solvers.integrations.pypde import solve_poisson_equation

    import pde

    cubes = [((n, n, n), part) for n in (16, 32, 48) for part in ("whole call", "linear part")]
    for shape, part in (*cubes, ((512, 512), "whole call"), ((512, 512), "linear part")):
        grid = pde.CartesianGrid([[0, 1]] * len(shape), shape)
        source = pde.ScalarField.random_normal(grid, rng=np.random.default_rng(41057))

        def solve(by: Any, source: Any = source, part: str = part) -> Any:
            with Clock((spla, "spsolve"), (scipy_functions, "krylearn_spsolve")) as clock:
                data = by(source, {"value": 0}).data
            return data if part == "whole call" else (data, clock.seconds)

        entrants = [
            Entrant("default", "spsolve", lambda _, s=solve: s(pde.solve_poisson_equation), (None,),
                    len(shape) == 3 and shape[0] >= 48),
            Entrant("ours", "solve_poisson_equation", lambda _, s=solve: s(solve_poisson_equation), (None,)),
        ]  # fmt: skip
        right = solve_poisson_equation(source, {"value": 0}).data
        yield System("py-pde", "Dirichlet sides", shape, 1, part, "field", relative_to(right), 1e-5, entrants)


def fipy_systems() -> Iterator[System]:
    """Yield steady diffusion with random coefficients."""
    os.environ["FIPY_SOLVERS"] = "scipy"
    import fipy
    from fipy.solvers.scipy import DefaultSolver, LinearCGSolver, LinearLUSolver
    from krylearn.solvers.integrations.fipy import KrylearnSolver

    for n in (16, 32, 48, 64):
        mesh = fipy.Grid3D(nx=n, ny=n, nz=n)
        coefficients = 10 ** np.random.default_rng(41077).uniform(-1, 1, mesh.numberOfFaces)
        D = fipy.FaceVariable(mesh=mesh, value=coefficients)  # noqa: N806

        def solve(solver: Any, mesh: Any = mesh, D: Any = D) -> tuple[Any, float]:  # noqa: N803
            phi = fipy.CellVariable(mesh=mesh, value=0.0)
            phi.constrain(1.0, mesh.facesLeft)
            phi.constrain(0.0, mesh.facesRight)
            with Clock((type(solver), "_solve_")) as clock:
                fipy.DiffusionTerm(coeff=D).solve(var=phi, solver=solver)
            return np.array(phi.value), clock.seconds

        def by(kind: Any, tol: float, solve: Any = solve) -> Any:
            return solve(kind(tolerance=tol, criterion="RHS", iterations=20_000))

        entrants = [
            Entrant("fastest", "LinearCGSolver", lambda tol, by=by: by(LinearCGSolver, tol)),
            Entrant("ours", "KrylearnSolver", lambda tol, by=by: by(KrylearnSolver, tol)),
        ]
        direct = lambda _, solve=solve: solve(DefaultSolver())  # noqa: E731
        entrants.insert(0, Entrant("default", DefaultSolver.__name__, direct, (None,), n >= 48))
        right = solve(LinearLUSolver() if n < 20 else KrylearnSolver(tolerance=1e-11, criterion="RHS"))[0]
        yield System("FiPy", "diffusion, Grid3D", (n, n, n), 1, "linear part", "field", relative_to(right), 1e-4,
                     entrants)  # fmt: skip


# --- geosciences ------------------------------------------------------------------------------------------------------
def simpeg_systems() -> Iterator[System]:
    """Yield DC resistivity with six sources on a padded tensor mesh."""
    import discretize
    from krylearn.solvers.integrations.simpeg import KrylearnSolver
    from simpeg import maps
    from simpeg.electromagnetics.static import resistivity as dc
    from simpeg.utils.solver_utils import get_default_solver

    default = get_default_solver()
    for core in (8, 24, 40, 56):
        h = [(10.0, 4, -1.3), (10.0, core), (10.0, 4, 1.3)]
        mesh = discretize.TensorMesh([h, h, [(10.0, 4, -1.3), (10.0, core)]], origin="CCN")
        sigma = 10 ** np.random.default_rng(41081).uniform(-3, -1, mesh.n_cells)
        receiver = dc.receivers.Dipole(np.array([[-20.0, 0, 0], [0.0, 20, 0]]), np.array([[20.0, 0, 0], [0.0, 50, 0]]))
        places = [np.array([-40.0 + 10 * k, 10.0, 0.0]) for k in range(6)]
        sources = [dc.sources.Dipole([receiver], place, place + np.array([20.0, 0, 0])) for place in places]

        def potentials(
            solver: Any, mesh: Any = mesh, sources: Any = sources, sigma: Any = sigma, **options: Any
        ) -> Any:
            simulation = dc.Simulation3DNodal(
                mesh, survey=dc.Survey(sources), sigmaMap=maps.IdentityMap(mesh), solver=solver, solver_opts=options
            )
            with Clock((solver, "__init__"), (solver, "solve"), (solver, "factor")) as clock:
                data = simulation.dpred(sigma)
            return data, clock.seconds

        entrants = [
            Entrant("default", default.__name__, lambda _, p=potentials: p(default), (None,), core >= 40),
            Entrant("ours", "KrylearnSolver", lambda tol, p=potentials: p(KrylearnSolver, rtol=tol)),
        ]
        right = potentials(KrylearnSolver, rtol=1e-11)[0]
        yield System("SimPEG", "DC, six sources", mesh.shape_nodes, 1, "linear part", "data", relative_to(right), 1e-4,
                     entrants)  # fmt: skip


def xinvert_systems() -> Iterator[System]:
    """Yield a stream function of a vorticity on a globe."""
    import xarray as xr
    import xinvert
    from krylearn.solvers.integrations.xinvert import invert_Poisson

    for ny, nx in ((49, 84), (127, 258), (233, 474), (361, 720)):  # about as many cells as 16^3, 32^3, 48^3, 64^3
        lat, lon = np.linspace(-87.5, 87.5, ny), np.arange(nx) * 360 / nx
        forcing = np.random.default_rng(41113).standard_normal((ny, nx)) * 1e-5
        F = xr.DataArray(forcing, dims=["lat", "lon"], coords={"lat": lat, "lon": lon})
        kinds = {"BCs": ["fixed", "periodic"], "printInfo": False}

        def theirs(tol: float, F: Any = F, kinds: Any = kinds) -> Any:
            options = kinds | {"mxLoop": 50_000, "tolerance": tol}
            return np.asarray(xinvert.invert_Poisson(F, ["lat", "lon"], coords="lat-lon", iParams=options))

        def ours(_: Any, F: Any = F, kinds: Any = kinds) -> Any:
            return np.asarray(invert_Poisson(F, ["lat", "lon"], coords="lat-lon", iParams=kinds))

        entrants = [
            Entrant("default", "SOR", theirs, (*LADDER[2:], 1e-9, 1e-10, 1e-11)),
            Entrant("ours", "invert_Poisson", ours, (None,)),
        ]
        yield System("xinvert", "globe, periodic in longitude", (ny, nx), 1, "whole call", "stream function",
                     relative_to(ours(None)), 1e-3, entrants)  # fmt: skip


def flopy_systems() -> Iterator[System]:
    """Yield a layered aquifer; MODFLOW's own program is not asked, SciPy's direct solver stands in for it."""
    import flopy
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla
    from krylearn.solvers.integrations.flopy import solve_heads, system_of

    for nlay, nrow in ((4, 32), (8, 64), (12, 96), (16, 128)):
        simulation = flopy.mf6.MFSimulation()
        flopy.mf6.ModflowTdis(simulation)
        gwf = flopy.mf6.ModflowGwf(simulation, modelname="m")
        k = np.random.default_rng(41117).lognormal(sigma=1.5, size=(nlay, nrow, nrow))
        bottoms = list(-5.0 * np.arange(1, nlay + 1))
        flopy.mf6.ModflowGwfdis(gwf, nlay=nlay, nrow=nrow, ncol=nrow, delr=100.0, delc=100.0, top=0.0, botm=bottoms)
        flopy.mf6.ModflowGwfnpf(gwf, k=k, k33=k / 10, icelltype=0)
        ends = [[(lay, i, j), 10.0 - j / nrow] for lay in range(nlay) for i in range(nrow) for j in (0, nrow - 1)]
        flopy.mf6.ModflowGwfchd(gwf, stress_period_data=ends)
        flopy.mf6.ModflowGwfwel(gwf, stress_period_data=[[(nlay - 1, nrow // 2, nrow // 2), -500.0]])

        def direct(_: Any, gwf: Any = gwf) -> Any:
            A, b, heads = system_of(gwf)
            matrix = sp.csc_array(A.matrix(unknowns=True))
            active = np.asarray(A.unknown).reshape(A.grid_shape)
            out = heads.copy()
            out[active] = spla.spsolve(matrix, np.asarray(b).reshape(A.grid_shape)[active])
            return out

        right = solve_heads(gwf, rtol=1e-12)
        entrants = [
            Entrant("default", "spsolve on its arrays", direct, (None,), nlay >= 12),
            Entrant("ours", "solve_heads", lambda tol, gwf=gwf: solve_heads(gwf, rtol=tol)),
        ]
        yield System("flopy", "confined aquifer", (nlay, nrow, nrow), 1, "whole call", "heads", relative_to(right),
                     1e-5, entrants)  # fmt: skip


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


# package as pip names it -> its module and its systems
CASES: dict[str, tuple[str, Callable[[], Iterator[System]]]] = {
    "scipy": ("scipy", scipy_systems),
    "scikit-image": ("skimage", skimage_systems),
    "blending": ("scipy", blending_systems),
    "taufactor": ("taufactor", taufactor_systems),
    "porespy": ("porespy", porespy_systems),
    "openpnm": ("openpnm", openpnm_systems),
    "phiflow": ("phi", phiflow_systems),
    "py-pde": ("pde", pypde_systems),
    "fipy": ("fipy", fipy_systems),
    "simpeg": ("simpeg", simpeg_systems),
    "xinvert": ("xinvert", xinvert_systems),
    "flopy": ("flopy", flopy_systems),
}
