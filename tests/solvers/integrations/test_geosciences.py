"""Groundwater and meteorology: their arrays, their answer. They run where the package is installed."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(35023)


def aquifer():
    flopy = pytest.importorskip("flopy", reason="flopy is not installed")
    nlay, nrow, ncol = 4, 9, 8
    simulation = flopy.mf6.MFSimulation()
    flopy.mf6.ModflowTdis(simulation)
    gwf = flopy.mf6.ModflowGwf(simulation, modelname="m")
    domain = (RNG.random((nlay, nrow, ncol)) > 0.1).astype(int)
    domain[:, :, [0, -1]] = 1
    flopy.mf6.ModflowGwfdis(
        gwf, nlay=nlay, nrow=nrow, ncol=ncol, delr=RNG.uniform(50, 200, ncol), delc=RNG.uniform(50, 200, nrow),
        top=10.0, botm=[0.0, -1.0, -8.0, -20.0], idomain=domain,
    )  # fmt: skip
    k = RNG.lognormal(sigma=1.5, size=(nlay, nrow, ncol))
    flopy.mf6.ModflowGwfnpf(gwf, k=k, k22=2 * k, k33=k / 10, icelltype=0)
    flopy.mf6.ModflowGwfic(gwf)
    ends = [[(lay, i, j), 12.0 - j] for lay in range(nlay) for i in range(nrow) for j in (0, ncol - 1)]
    flopy.mf6.ModflowGwfchd(gwf, stress_period_data=ends)
    inside = [tuple(map(int, c)) for c in np.argwhere(domain[:, :, 1:-1] > 0)[::23] + np.array([0, 0, 1])]
    flopy.mf6.ModflowGwfwel(gwf, stress_period_data=[[c, -50.0] for c in inside[:3]])
    flopy.mf6.ModflowGwfghb(gwf, stress_period_data=[[inside[3], 9.0, 40.0]])
    flopy.mf6.ModflowGwfriv(gwf, stress_period_data=[[inside[4], 8.0, 25.0, 1.0]])
    flopy.mf6.ModflowGwfrcha(gwf, recharge=1e-3)
    return gwf, domain


def direct_heads(gwf, domain):
    """Cell by cell and face by face, straight from MODFLOW's formula, solved by SciPy's direct solver."""
    dis, npf = gwf.dis, gwf.npf
    tops = np.concatenate([dis.top.array[None], dis.botm.array[:-1]])
    thickness, number = tops - dis.botm.array, np.arange(domain.size).reshape(domain.shape)
    A, b = sp.lil_array((domain.size,) * 2), np.zeros(domain.size)
    K = (npf.k33.array, npf.k22.array, npf.k.array)
    for c in np.ndindex(domain.shape):
        sizes = (thickness[c], dis.delc.array[c[1]], dis.delr.array[c[2]])
        for axis in range(3):
            n = (*c[:axis], c[axis] + 1, *c[axis + 1 :])
            if n[axis] >= domain.shape[axis] or not (domain[c] and domain[n]):
                continue
            other = (thickness[n], dis.delc.array[n[1]], dis.delr.array[n[2]])
            resistance = sum(
                s[axis] / (2 * K[axis][cell] * np.prod(s) / s[axis]) for cell, s in ((c, sizes), (n, other))
            )
            for i, j in ((number[c], number[n]), (number[n], number[c])):
                A[i, i] += 1 / resistance
                A[i, j] -= 1 / resistance
    area = dis.delc.array[:, None] * dis.delr.array
    for i, j in np.ndindex(area.shape):
        if domain[:, i, j].any():
            b[number[np.argmax(domain[:, i, j]), i, j]] += 1e-3 * area[i, j]
    for record in gwf.wel.stress_period_data.get_data(0):
        b[number[record["cellid"]]] += record["q"]
    for package, level in ((gwf.ghb, "bhead"), (gwf.riv, "stage")):
        for record in package.stress_period_data.get_data(0):
            i = number[record["cellid"]]
            A[i, i] += record["cond"]
            b[i] += record["cond"] * record[level]
    for record in gwf.chd.stress_period_data.get_data(0):
        i = number[record["cellid"]]
        A[i, :] = 0
        A[i, i], b[i] = 1, record["head"]
    for i in number[domain == 0]:
        A[i, i] = 1
    return np.where(domain > 0, spla.spsolve(A.tocsc(), b).reshape(domain.shape), np.nan)


def test_flopy_arrays_give_the_heads_of_a_direct_solver():
    gwf, domain = aquifer()
    from krylearn.solvers.integrations.flopy import solve_heads

    np.testing.assert_allclose(solve_heads(gwf), direct_heads(gwf, domain), rtol=1e-8)


def test_cells_that_may_fall_dry_are_refused():
    gwf, _ = aquifer()
    from krylearn.solvers.integrations.flopy import solve_heads

    gwf.npf.icelltype.set_data(1)
    with pytest.raises(ValueError, match="icelltype > 0"):
        solve_heads(gwf)


@pytest.mark.parametrize("coords", ["lat-lon", "cartesian"])
@pytest.mark.parametrize("kinds", [["fixed", "fixed"], ["fixed", "periodic"]])
@pytest.mark.parametrize("land", [False, True])
def test_xinvert(coords, kinds, land):
    xinvert = pytest.importorskip("xinvert", reason="xinvert is not installed")
    import xarray as xr
    from krylearn.solvers.integrations.xinvert import invert_Poisson

    ny, nx = 19, 36
    y = np.linspace(-80, 80, ny) if coords == "lat-lon" else np.arange(ny) * 1e5
    x = np.arange(nx) * (10.0 if coords == "lat-lon" else 2e5)
    forcing = RNG.standard_normal((2, ny, nx)) * 1e-5
    if land:
        forcing[:, 5:9, 10:20] = np.nan
    F = xr.DataArray(forcing, dims=["time", "y", "x"], coords={"y": y, "x": x})
    options = {"BCs": kinds, "mxLoop": 20000, "tolerance": 1e-14, "dtype": np.float64, "printInfo": False}
    theirs = xinvert.invert_Poisson(F, ["y", "x"], coords=coords, iParams=options)
    ours = invert_Poisson(F, ["y", "x"], coords=coords, iParams=options)
    assert ours.dims == theirs.dims
    scale = float(abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-6)
