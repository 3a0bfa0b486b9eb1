"""Packages that hand over a matrix: their own call with our solver gives their own answer.

They run where the package is installed: `make test-integrations`.
"""

import subprocess
import sys

import numpy as np
import pytest
from krylearn.solvers.integrations import scipy_functions

pytestmark = pytest.mark.filterwarnings("default")  # what these packages warn of is theirs

RNG = np.random.default_rng(33013)


@pytest.fixture
def never_scipy(monkeypatch):
    """Nothing falls back to SciPy's own functions."""

    def refuse(*_, **__):
        raise AssertionError("SciPy's own function was called")

    monkeypatch.setattr(scipy_functions, "SCIPY_CG", refuse)
    monkeypatch.setattr(scipy_functions, "SCIPY_SPSOLVE", refuse)


# --- SimPEG -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("formulation", ["Simulation3DNodal", "Simulation3DCellCentered"])
def test_simpeg_dc_resistivity(formulation):
    pytest.importorskip("simpeg", reason="SimPEG is not installed")
    import discretize
    from krylearn.solvers.integrations.simpeg import KrylearnSolver
    from pymatsolver import SolverLU
    from simpeg import maps
    from simpeg.electromagnetics.static import resistivity as dc

    h = [(10.0, 4, -1.3), (10.0, 12), (10.0, 4, 1.3)]
    mesh = discretize.TensorMesh([h, h, [(10.0, 4, -1.3), (10.0, 8)]], origin="CCN")
    sigma = 10 ** RNG.uniform(-3, -1, mesh.n_cells)
    receiver = dc.receivers.Dipole(np.array([[-20.0, 0, 0], [0.0, 20, 0]]), np.array([[20.0, 0, 0], [0.0, 50, 0]]))
    places = [np.array([-40.0 + 20 * k, 10.0, 0.0]) for k in range(4)]
    sources = [dc.sources.Dipole([receiver], place, place + np.array([40.0, 0, 0])) for place in places]
    data = []
    for solver in (SolverLU, KrylearnSolver):
        simulation = getattr(dc, formulation)(
            mesh, survey=dc.Survey(sources), sigmaMap=maps.IdentityMap(mesh), solver=solver
        )
        data.append(simulation.dpred(sigma))
        if solver is KrylearnSolver:
            notes = simulation.Ainv.prepared.notes if hasattr(simulation.Ainv, "prepared") else []
    assert np.linalg.norm(data[1] - data[0]) <= 1e-7 * np.linalg.norm(data[0])
    assert any("found in the pattern" in note for note in notes), notes


def test_simpeg_sensitivities_use_the_same_solver():
    pytest.importorskip("simpeg", reason="SimPEG is not installed")
    import discretize
    from krylearn.solvers.integrations.simpeg import KrylearnSolver
    from simpeg import maps
    from simpeg.electromagnetics.static import resistivity as dc

    mesh = discretize.TensorMesh([8, 8, 8], origin="CCN")
    receiver = dc.receivers.Pole(np.array([[0.1, 0.1, -0.1]]))
    survey = dc.Survey([dc.sources.Pole([receiver], np.array([-0.2, 0.0, -0.05]))])
    sigma, v = np.full(mesh.n_cells, 0.1), RNG.standard_normal(mesh.n_cells)
    simulation = dc.Simulation3DNodal(mesh, survey=survey, sigmaMap=maps.IdentityMap(mesh), solver=KrylearnSolver)
    change = (simulation.dpred(sigma + 1e-5 * v * 0.1) - simulation.dpred(sigma - 1e-5 * v * 0.1)) / 2e-6
    np.testing.assert_allclose(simulation.Jvec(sigma, v), change, rtol=1e-3)


# --- FiPy -------------------------------------------------------------------------------------------------------------
def fipy_answers(solver, mesh_name, transient):
    import fipy

    if mesh_name == "stretched":
        mesh = fipy.Grid2D(dx=1.2 ** np.arange(17), dy=1.1 ** np.arange(14))
    else:
        mesh = {"grid2": lambda: fipy.Grid2D(nx=20, ny=17), "grid3": lambda: fipy.Grid3D(nx=9, ny=8, nz=7)}[mesh_name]()
    phi = fipy.CellVariable(mesh=mesh, value=0.0)
    phi.constrain(1.0, mesh.facesLeft)
    phi.constrain(0.0, mesh.facesRight)
    D = fipy.FaceVariable(mesh=mesh, value=10 ** np.random.default_rng(33023).uniform(-1, 1, mesh.numberOfFaces))  # noqa: N806
    if transient:
        equation = fipy.TransientTerm() == fipy.DiffusionTerm(coeff=D)
        for _ in range(3):
            equation.solve(var=phi, dt=0.7, solver=solver())
    else:
        (fipy.DiffusionTerm(coeff=D) + fipy.CellVariable(mesh=mesh, value=0.3) == 0).solve(var=phi, solver=solver())
    return np.array(phi.value)


@pytest.mark.parametrize("mesh", ["grid2", "grid3", "stretched"])
@pytest.mark.parametrize("transient", [False, True])
def test_fipy(mesh, transient, never_scipy, monkeypatch):
    monkeypatch.setenv("FIPY_SOLVERS", "scipy")
    pytest.importorskip("fipy", reason="FiPy is not installed")
    from fipy.solvers.scipy import LinearLUSolver
    from krylearn.solvers.integrations.fipy import KrylearnSolver

    theirs = fipy_answers(lambda: LinearLUSolver(tolerance=1e-14), mesh, transient)
    ours = fipy_answers(lambda: KrylearnSolver(tolerance=1e-12), mesh, transient)
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-8)


# --- OpenPNM ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [[9, 8, 7], [15, 12, 1]])
def test_openpnm(shape):
    op = pytest.importorskip("openpnm", reason="OpenPNM is not installed")
    from krylearn.solvers.integrations.openpnm import KrylearnSolver

    answers = []
    for solver in (op.solvers.ScipySpsolve(), KrylearnSolver(tol=1e-12)):
        network = op.network.Cubic(shape=shape, spacing=1e-4)
        phase = op.phase.Phase(network=network)
        phase["throat.diffusive_conductance"] = (
            np.random.default_rng(33029).lognormal(sigma=1.5, size=network.Nt) * 1e-12
        )
        algorithm = op.algorithms.FickianDiffusion(network=network, phase=phase)
        algorithm.set_value_BC(pores=network.pores("left"), values=1.0)
        algorithm.set_value_BC(pores=network.pores("right"), values=0.0)
        algorithm.run(solver=solver)
        answers.append((algorithm["pore.concentration"], algorithm.rate(pores=network.pores("left"))))
    np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(answers[1][1], answers[0][1], rtol=1e-6)


# --- PhiFlow ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("obstacle", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
def test_phiflow(closed, obstacle, ndim, never_scipy):
    pytest.importorskip("phi", reason="PhiFlow is not installed")
    from krylearn.solvers.integrations.phiflow import krylearn_solves
    from phi import flow

    sizes = dict(zip("xyz", (12, 11, 10), strict=True)) if ndim == 3 else {"x": 16, "y": 14}
    solids = [flow.Obstacle(flow.Box(x=(3, 6), y=(4, 7), **({"z": (2, 6)} if ndim == 3 else {})))] if obstacle else []
    velocity = flow.StaggeredGrid(
        flow.Noise(scale=4),
        0 if closed else flow.ZERO_GRADIENT,
        flow.Box(**{k: float(n) for k, n in sizes.items()}),
        **sizes,
    )
    with krylearn_solves():
        ours, _ = flow.fluid.make_incompressible(velocity, solids, flow.Solve("scipy-CG", 1e-5))
    theirs, _ = flow.fluid.make_incompressible(velocity, solids, flow.Solve("scipy-direct", 1e-5))
    order = (*sizes, "vector")
    at_centres = [np.asarray(v.at_centers().values.numpy(order)) for v in (ours, theirs)]
    np.testing.assert_allclose(*at_centres, atol=2e-3)


# --- py-pde -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "periodic", "bc"),
    [
        ((12, 13), False, {"value": 0}),
        ((12, 13), [True, False], {"y": {"value": "x"}, "x": "periodic"}),
        ((6, 7, 8), False, {"x-": {"value": 1}, "x+": {"derivative": 0.5}, "y": {"derivative": 0}, "z": {"value": 2}}),
    ],
)
def test_py_pde(shape, periodic, bc, tmp_path):
    """In a process of its own: this repository's folder `pde` hides the package of that name."""
    code = PY_PDE.format(shape=shape, periodic=periodic, bc=bc)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "No module named 'pde'" in done.stderr:
        pytest.skip("py-pde is not installed")
    assert done.returncode == 0, done.stderr


PY_PDE = """
import numpy as np, pde
from krylearn.solvers.integrations import scipy_functions
from krylearn.solvers.integrations.pypde import solve_poisson_equation
grid = pde.CartesianGrid([[0, 1.5]] * len({shape}), {shape}, periodic={periodic})
field = pde.ScalarField.random_normal(grid, rng=np.random.default_rng(33037))
theirs = pde.solve_poisson_equation(field, {bc})
scipy_functions.SCIPY_SPSOLVE = None
np.testing.assert_allclose(solve_poisson_equation(field, {bc}).data, theirs.data, rtol=1e-6, atol=1e-7)
"""
