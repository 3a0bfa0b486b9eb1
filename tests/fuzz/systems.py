"""Random and hostile systems through every entry point, judged on what was handed over by an assembly of its own.

    make fuzz ARGS="systems --count 100000 --seed 101 --output systems.jsonl"
    make fuzz ARGS="systems --publish systems.jsonl more.jsonl"

A case is a builder (cells, coefficients, faces, matrix), a grid of 1 to 17 cells per axis, a medium, boundaries, a
shift, several components, a unit of A and one of b between 1e-150 and 1e150 (single precision: 1e-15 and 1e15), a
dtype, a layout and a shape of b, a guess, a tolerance, an entry point. The judge assembles A from the builder's
arguments, face by face in extended precision, and forms ‖b - A x‖ with the x that came back.

* lie: `info == 0` and the residual is above max(rtol ‖b‖, atol), rounding of the judge's A apart; or a failure whose x
  is not finite although b is
* crash: any exception
* missed: a failure although the system is solvable: plain CG in fp64, written out here, reaches rtol on the system
  scaled to moderate numbers, and its x, rounded to the caller's dtype and put back into the caller's units, does too
"""

import argparse
import math
import sys
import time
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from krylearn.bench.measure.machine import commit
from krylearn.bench.measure.record import RECORDS, Record, append
from krylearn.solvers.files import append_json_lines, read_json_lines

CHUNK = 1000
LONG = np.longdouble
RIGHT_HAND_SIDES = {"random": 0.3, "product": 0.3, "point": 0.1, "compatible": 0.2, "zero": 0.02, "wide": 0.08}
DTYPES = {"same": 0.7, "float64": 0.1, "float32": 0.1, ">f8": 0.04, "longdouble": 0.04, "int64": 0.02}
WAYS = ("cg", "cg", "none", "resistor", "explicit", "list", "batch", "solve", "matrix", "dcdm", "threads")
SIDES = ("neumann", "dirichlet", "periodic")


# --- cases ------------------------------------------------------------------------------------------------------------
def a_case(seed, number):
    """Return a random case as plain data; the same for the same numbers."""
    rng = np.random.default_rng((90210, seed, number))
    dtype = rng.choice(["float64", "float32"], p=[0.65, 0.35])
    dimension = int(rng.choice([2, 3], p=[0.7, 0.3]))
    most = 17 if dimension == 2 else 9
    shape = tuple(int(n) for n in rng.integers(1, most + 1, dimension))
    if rng.random() < 0.1:
        shape = tuple(int(n) for n in rng.choice([1, 2, 3], dimension))
    unit = 150 if dtype == "float64" else 15
    return {
        "number": number,
        "shape": shape,
        "dtype": str(dtype),
        "builder": str(rng.choice(["cells", "coefficients", "faces", "matrix", "matrix, own numbering"])),
        "medium": str(rng.choice(["constant", "smooth", "blocks", "lognormal", "holes", "pockets"])),
        "boundary": tuple(_sides(rng) for _ in range(dimension)),
        "shift": float(rng.choice([0, 0, 0, 1e-3, 1.0])),
        "unit": float(10 ** rng.uniform(-unit, unit)) if rng.random() < 0.6 else 1.0,
        "size": float(10 ** rng.uniform(-unit, unit)) if rng.random() < 0.6 else 1.0,
        "b": str(rng.choice(list(RIGHT_HAND_SIDES), p=list(RIGHT_HAND_SIDES.values()))),
        "b dtype": str(rng.choice(list(DTYPES), p=list(DTYPES.values()))),
        "layout": str(rng.choice(["flat", "grid", "column", "strided", "torch"])),
        "x0": str(rng.choice(["none", "none", "random", "far", "Mb", "solution"])),
        "rtol": float(10 ** (rng.uniform(-9, -2) if dtype == "float64" else rng.uniform(-5, -2))),
        "atol": float(rng.choice([0, 0, 0, 1e-3])),
        "way": str(rng.choice(WAYS)),
    }  # fmt: skip


def _sides(rng):
    low, high = (str(rng.choice(SIDES[:2], p=[0.6, 0.4])) for _ in range(2))
    return ("periodic", "periodic") if rng.random() < 0.2 else (low, high)


def arguments(case):
    """Return what the builder gets: (name, keyword arguments), in the case's unit and dtype."""
    rng, shape = np.random.default_rng((4711, case["number"])), case["shape"]
    dtype, unit, names = np.dtype(case["dtype"]), case["unit"], "xyz"
    boundary = {
        names[d] + sign: kind for d, pair in enumerate(case["boundary"]) for sign, kind in zip("-+", pair, strict=True)
    }
    kappa = {
        "constant": lambda: np.ones(shape),
        "smooth": lambda: 2 + np.sin(_ramp(shape)),
        "blocks": lambda: 10.0 ** -rng.integers(0, 4, shape),
        "lognormal": lambda: np.exp(1.5 * rng.standard_normal(shape)),
        "holes": lambda: np.ones(shape),
        "pockets": lambda: 0.5 + rng.random(shape),
    }[case["medium"]]()  # fmt: skip
    cells = np.ones(shape, int)
    if case["medium"] in ("holes", "pockets"):
        cells = rng.choice([0, 1, 2], shape, p=[0.25, 0.72, 0.03] if case["medium"] == "holes" else [0.45, 0.54, 0.01])
        cells.flat[rng.integers(cells.size)] = 1
    shift = None if not case["shift"] else case["shift"] * unit
    if case["builder"] == "cells":
        # kappa is 1: a unit comes from the cell size in 3D (h), in 2D there is none
        spacing = unit if len(shape) == 3 else 1.0
        shift = None if not case["shift"] else case["shift"] / (spacing**2 if 1e-100 < spacing < 1e100 else 1.0)
        if shift and not 1e-100 < spacing < 1e100:
            shift = None
        if shift and not (1e-35 if dtype == np.float32 else 1e-290) < shift * spacing ** len(shape) < 1e35:
            shift = None
        return "from_cells", {"cells": cells, "spacing": spacing, "boundary": boundary, "shift": shift, "dtype": dtype}
    kappa = (kappa * unit).astype(dtype)
    if case["builder"] == "faces":
        faces = [_faces(kappa, cells, d, case["boundary"][d]) for d in range(len(shape))]
        extra = np.where(cells == 1, shift or 0.0, 0.0).astype(dtype)
        if not any(f.any() for f in faces) and not extra.any():
            extra = np.full(shape, unit, dtype)
        wraps = {names[d]: "periodic" for d, pair in enumerate(case["boundary"]) if pair[0] == "periodic"}
        return "from_faces", {"faces": faces, "extra": extra, "boundary": wraps, "dtype": dtype}
    return "from_coefficients", {"kappa": kappa, "cells": cells, "boundary": boundary, "shift": shift, "dtype": dtype}


def _ramp(shape):
    return sum(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")) * 0.5


def _faces(kappa, cells, d, pair):
    """Conductances of the faces along an axis, of the dtype of kappa."""
    own = np.moveaxis(np.where(cells == 1, kappa, 0), d, 0)
    inner = np.minimum(own[:-1], own[1:])
    if pair[0] == "periodic":
        end = np.minimum(own[:1], own[-1:])
        ends = end, end
    else:
        ends = tuple(w * (kind == "dirichlet") for w, kind in zip((own[:1], own[-1:]), pair, strict=True))
    return np.moveaxis(np.concatenate([ends[0], inner, ends[1]]), 0, d).astype(kappa.dtype)


# --- the judge --------------------------------------------------------------------------------------------------------
def assembled(name, given):
    """Assemble A in extended precision, one loop over cells and faces; second: which rows hold no unknown."""
    dtype = np.dtype(given["dtype"])
    if name == "from_faces":
        faces, extra = given["faces"], given["extra"]
        shape = extra.shape
        wraps = [given["boundary"].get("xyz"[d]) == "periodic" for d in range(len(shape))]
        rows, columns, values, diag = [], [], [], extra.astype(LONG).ravel().copy()
        for i in np.ndindex(shape):
            k = np.ravel_multi_index(i, shape)
            for d, n in enumerate(shape):
                for step, at in ((-1, i[d]), (1, i[d] + 1)):
                    w = LONG(faces[d][(*i[:d], at, *i[d + 1 :])])
                    j = i[d] + step
                    if not 0 <= j < n:
                        if not wraps[d]:
                            diag[k] += w
                            continue
                        if n == 1:
                            continue
                        j %= n
                    diag[k] += w
                    rows.append(k)
                    columns.append(np.ravel_multi_index((*i[:d], j, *i[d + 1 :]), shape))
                    values.append(-w)
    else:
        cells = np.asarray(given["cells"])
        shape = cells.shape
        kappa = np.ones(shape, LONG) if name == "from_cells" else given["kappa"].astype(LONG)
        h = LONG(given.get("spacing", 1.0))
        factor = h ** (len(shape) - 2)
        shift = LONG(dtype.type(given["shift"] or 0.0)) * h ** len(shape)
        rows, columns, values, diag = [], [], [], np.where(cells == 1, shift, LONG(0)).ravel()
        for i in np.ndindex(shape):
            if cells[i] != 1:
                continue
            k = np.ravel_multi_index(i, shape)
            for d, n in enumerate(shape):
                for step, sign in ((-1, "-"), (1, "+")):
                    kind, j = given["boundary"]["xyz"[d] + sign], i[d] + step
                    if not 0 <= j < n:
                        if kind == "dirichlet":
                            diag[k] += 2 * kappa[i] * factor
                        if kind != "periodic" or n == 1:
                            continue
                        j %= n
                    other = (*i[:d], j, *i[d + 1 :])
                    if cells[other] == 2:
                        diag[k] += kappa[i] * factor
                    elif cells[other] == 1 and kappa[i] > 0 and kappa[other] > 0:
                        w = 2 * kappa[i] * kappa[other] / (kappa[i] + kappa[other]) * factor
                        diag[k] += w
                        rows.append(k)
                        columns.append(np.ravel_multi_index(other, shape))
                        values.append(-w)
    n = diag.size
    rows, columns = (
        np.concatenate([rows, np.arange(n)]).astype(int),
        np.concatenate([columns, np.arange(n)]).astype(int),
    )
    matrix = rows, columns, np.concatenate([np.array(values, LONG), diag])
    if name == "from_faces":
        coupled = np.zeros(n, bool)
        coupled[rows[:-n]] = np.array(values, LONG) < 0
        outside = ~(coupled | (diag > 0))
    else:
        outside = (np.asarray(given["cells"]) != 1).ravel()
    return matrix, outside


def product(matrix, x):
    """Return A x in extended precision, and |A| |x|, which its rounding is measured by."""
    rows, columns, values = matrix
    y, size = np.zeros(len(x), LONG), np.zeros(len(x), LONG)
    terms = values * x[columns]
    np.add.at(y, rows, terms)
    np.add.at(size, rows, abs(terms))
    return y, size


def norm(v):
    """Return a norm in extended precision, whose exponents reach 4,900 decades."""
    return np.sqrt((v * v).sum())


def part_in_null_space(matrix, b, dtype):
    """Return the norm of what of b lies in the constants of components that nothing ties to a value, rounding apart."""
    rows, columns, values = matrix
    graph = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(b),) * 2)
    graph.data = (values != 0).astype(float) if graph.nnz == len(values) else graph.data
    count, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    sums, diag, part, size = (np.zeros(count, LONG) for _ in range(4))
    np.add.at(sums, label[rows], values)
    np.add.at(diag, label[rows], np.where(rows == columns, values, 0))
    np.add.at(part, label, b)
    np.add.at(size, label, 1)
    free = sums <= 64 * np.finfo(dtype).eps * diag
    return norm((part / np.sqrt(size))[free])


def is_solvable(matrix, b, rtol, atol, dtype):
    """Tell whether plain CG in fp64 reaches the tolerance, and its x can be handed over in the caller's dtype."""
    rows, columns, values = matrix
    size, length = abs(values).max(initial=LONG(0)), norm(b)
    if length == 0:
        return True
    if not (size > 0 and np.isfinite(length)):
        return False
    A = scipy.sparse.csr_array(((values / size).astype(float), (rows, columns)), shape=(len(b),) * 2)
    right = (b / length).astype(float)
    goal = max(rtol, float(atol / length))
    x, r = np.zeros(len(b)), right.copy()
    p, rr = r.copy(), r @ r
    for _ in range(10 * len(b)):
        if math.sqrt(rr) <= 0.5 * goal:
            break
        q = A @ p
        pq = p @ q
        if not pq > 0:
            break
        alpha = rr / pq
        x += alpha * p
        r -= alpha * q
        before, rr = rr, r @ r
        p = r + (rr / before) * p
    with np.errstate(over="ignore", under="ignore"):
        handed = (x.astype(LONG) * (length / size)).astype(dtype)
    if not np.isfinite(handed).all():
        return False
    y, _ = product(matrix, handed.astype(LONG))
    return bool(norm(b - y) <= 0.5 * max(rtol * length, atol))


# --- one case ---------------------------------------------------------------------------------------------------------
def right_hand_side(case, matrix, outside):
    """Return b as flat numbers in the dtype that the caller uses."""
    rng, n = np.random.default_rng((31337, case["number"])), len(outside)
    size = LONG(case["size"])
    if case["b"] == "zero":
        v = np.zeros(n, LONG)
    elif case["b"] == "point":
        v = np.zeros(n, LONG)
        v[rng.integers(n)] = size
    elif case["b"] in ("product", "compatible"):
        x = rng.standard_normal(n).astype(LONG)
        x[outside] = 0
        y, _ = product(matrix, x)
        v = y if not np.any(y) else y * (size / abs(y).max())
    elif case["b"] == "wide":
        v = 10.0 ** rng.uniform(-12, 0, n) * size
    else:
        v = rng.standard_normal(n).astype(LONG) * size
    wanted = {"same": case["dtype"]}.get(case["b dtype"], case["b dtype"])
    if wanted == "int64":
        v = np.rint(np.clip(v / size * 100, -1e9, 1e9)) if size else v
    with np.errstate(over="ignore", under="ignore"):
        return v.astype(wanted)


def run_case(case, pool=None):
    """Return (verdict, words): "fine", "failed", "refused", "missed", "lie", "crash"."""
    import torch
    from krylearn.pde import Poisson
    from krylearn.solvers import NeuralMultigrid, cg, dcdm, solve
    from krylearn.solvers.krylov.outcome import ConvergenceError

    name, given = arguments(case)
    rng = np.random.default_rng((2718, case["number"]))
    try:
        A = getattr(Poisson, name)(**given)
    except ValueError as error:  # units beyond the dtype, nothing but walls: no system at all
        return "refused", str(error)
    matrix, outside = assembled(name, given)
    n = len(outside)
    if case["builder"].startswith("matrix"):
        csr = A.matrix()
        if case["builder"] == "matrix":  # rows of cells without an unknown: an equation each, or empty
            alone = np.where(outside, rng.choice([0.0, 1.0, 3.7], n) * float(abs(csr).max() or 1), 0)
            csr = scipy.sparse.csr_array(csr + scipy.sparse.diags_array(alone), dtype=csr.dtype)
            if not csr.diagonal().any():
                return "refused", "an empty matrix"
            A, outside = Poisson.from_matrix(csr, case["shape"]), csr.diagonal() == 0
        else:
            inside = np.flatnonzero(~outside)
            csr = csr[inside][:, inside]
            A = Poisson.from_matrix(csr, case["shape"], cells=(~outside).reshape(case["shape"]))
            outside = np.zeros(len(inside), bool)
        coo, n = scipy.sparse.coo_array(csr), csr.shape[0]
        matrix = coo.row, coo.col, coo.data.astype(LONG)
    b = right_hand_side(case, matrix, outside)
    if case["builder"] == "matrix":
        b = np.where(outside, 0, b) if rng.random() < 0.9 else b
    rtol, atol, way = case["rtol"], case["atol"] * case["size"], case["way"]
    layout = case["layout"]
    if way == "batch" and (3, n) == case["shape"]:  # which is one vector on the grid
        way = "cg"
    if way in ("list", "batch") or (layout == "grid" and n != math.prod(case["shape"])):
        layout = "flat"
    native = b.astype(float if b.dtype.itemsize > 8 else b.dtype.newbyteorder("="))
    shaped = {
        "flat": lambda: b,
        "grid": lambda: b.reshape(case["shape"]),
        "column": lambda: b.reshape(n, 1),
        "strided": lambda: np.repeat(b, 3)[::3],
        "torch": lambda: torch.from_numpy(native),
    }[layout]()
    keeps = case["builder"].startswith("matrix")  # a matrix has only equations; cells of builders may hold none
    judged = b.astype(LONG) if keeps else np.where(outside, 0, b).astype(LONG)
    guess = None
    if case["x0"] in ("random", "far", "solution") and way not in ("list", "batch", "solve", "dcdm"):
        like = LONG(case["size"]) / LONG(max(abs(matrix[2]).max(initial=LONG(0)), LONG(0)) or 1)
        v = rng.standard_normal(n).astype(LONG) * like * (LONG(1e4) if case["x0"] == "far" else 1)
        with np.errstate(over="ignore", under="ignore"):
            guess = v.astype(case["dtype"])
        guess = None if not np.isfinite(guess).all() else guess
        if guess is not None and layout == "grid":
            guess = guess.reshape(case["shape"])
    elif case["x0"] == "Mb" and way in ("cg", "resistor"):
        guess = "Mb"
    limits, info = {"rtol": rtol, "atol": atol}, 0
    try:
        if way == "matrix":
            S = A.matrix()
            if keeps:  # this is what is handed over; what was read of a matrix has its rounding
                coo = scipy.sparse.coo_array(S)
                matrix = coo.row, coo.col, coo.data.astype(LONG)
            project = None
            if A.nullspace:
                labels = A.nullspace.labels.reshape(-1)
                labels = labels if A.numbering is None else labels[A.numbering]
                project = np.stack([(labels.numpy() == s).astype(float) for s in A.nullspace.singular], 1)
            flat = shaped if layout != "grid" else b
            flat = flat if keeps else np.where(outside, 0, b)
            x, info = cg(
                S, flat, None if isinstance(guess, str) or guess is None else guess.ravel(), nullspace=project, **limits
            )
        elif way == "list":
            x, info = cg([A, A], np.stack([b, b]), **limits)
            x = x[1]
        elif way == "batch":
            x, info = cg(A, np.stack([b, b, b]), **limits)
            x = x[1]
        elif way == "solve":
            limits["rtol"] = rtol = max(rtol, 1e-6 if b.dtype == np.float32 else 1e-10)
            x = solve(A, shaped, **limits)
        elif way == "dcdm":
            x, info = dcdm(A, shaped, NeuralMultigrid(A), **limits)
        elif way == "threads" and pool:
            x, info = list(pool.map(lambda _: cg(A, shaped, guess, **limits), range(4)))[rng.integers(4)]
        else:
            M = (
                {"none": "none", "resistor": "resistor", "explicit": NeuralMultigrid(A)}.get(way)
                if way in ("none", "resistor", "explicit")
                else None
            )
            x, info = cg(A, shaped, guess, M=M, **limits)
    except ConvergenceError as error:
        info, x = error.info, error.x
        if x is None or way == "solve":
            x = np.zeros(n, b.dtype if b.dtype.kind == "f" else float)
    handed = np.asarray(x.numpy() if isinstance(x, torch.Tensor) else x).ravel()
    result = handed.dtype
    v = handed.astype(LONG)
    y, size = product(matrix, np.where(np.isfinite(v), v, 0))
    length = norm(judged)
    residual = norm(judged - y)
    tolerance = max(LONG(rtol) * length, LONG(atol))
    # entries of A carry the rounding of the builder, which the judge's do not
    noise = 8 * np.finfo(case["dtype"]).eps * norm(size) if not keeps else 8 * np.finfo(float).eps * norm(size)
    noise = noise + LONG(2e-16) * length
    if way == "solve":  # its promise is about x before it is rounded to the dtype of b
        noise = noise + np.finfo(result).eps * norm(size) * 2
    if info == 0:
        if not np.isfinite(v).all() or residual > LONG(1.0001) * tolerance + noise:
            return "lie", f"residual {float(residual / max(length, LONG(1e-4000))):.3g}, rtol {rtol:.3g}"
        return "fine", ""
    if np.isfinite(length) and not np.isfinite(v).all() and info.reason.name != "NON_FINITE":
        return "lie", f"{info!r}: x is not finite"
    if info.reason.name == "INCOMPATIBLE_RHS" and part_in_null_space(matrix, judged, case["dtype"]) > tolerance:
        return "failed", repr(info)
    if is_solvable(matrix, judged, rtol, LONG(atol), result):
        return "missed", repr(info)
    return "failed", repr(info)


def family(value):
    """Name the decade range of a unit."""
    if value == 1:
        return "1"
    decade = math.floor(math.log10(value) / 30) * 30
    return f"1e{decade:+d} to 1e{decade + 30:+d}"


def fuzz(count, seed, first=0, seconds=math.inf):
    """Run cases; return counts per dtype and unit, and descriptions of lies, crashes and misses."""
    table, bad, begin = defaultdict(Counter), [], time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        for number in range(first, first + count):
            if time.perf_counter() - begin > seconds:
                break
            case = a_case(seed, number)
            try:
                with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                    verdict, words = run_case(case, pool)
            except Exception:
                verdict, words = "crash", traceback.format_exc(limit=-4)
            for key in (("all", ""), (case["dtype"], "any"), (case["dtype"], family(case["unit"]))):
                table[key][verdict] += 1
            for what in ("builder", "way"):
                table[(what, case[what])][verdict] += 1
            if verdict in ("lie", "crash", "missed"):
                bad.append({"verdict": verdict, "words": words, "seed": seed, "case": case})
    return table, bad


def fuzz_in_chunks(count, seed, first, seconds, output):
    """Run cases 1,000 at a time, append each chunk to a file, and skip those that it holds: a stop loses nothing."""
    done = {(line["seed"], line["first"]) for line in read_json_lines(output)} if output.exists() else set()
    end, begin = first + count, time.perf_counter()
    for start in range(first, end, CHUNK):
        if (seed, start) in done:
            continue
        if time.perf_counter() - begin > seconds:
            break
        table, bad = fuzz(min(CHUNK, end - start), seed, start)
        figures = {" ".join(key).strip(): dict(c) for key, c in table.items()}
        facts = {"seed": seed, "first": start, "commit": commit(), "figures": figures}
        append_json_lines(output, [{**facts, "bad": bad}])


def joined(files):
    """Return the counts of all chunks in files, what went wrong in them, and their seeds."""
    table, bad, seeds = defaultdict(Counter), [], set()
    for line in (line for file in files for line in read_json_lines(file)):
        for key, counts in line["figures"].items():
            table[tuple(key.split(" ", 1)) if " " in key else (key, "")].update(counts)
        bad += line["bad"]
        seeds.add(line["seed"])
    return table, bad, seeds


def publish(files, path=RECORDS / "fuzz.jsonl"):
    """Append what the chunks say to the records that the table of docs/robustness.md is made of."""
    table, _, seeds = joined(files)
    run = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts = {"method": "krylearn cg, dcdm, solve", "unknowns": 0, "tolerance": None, "status": "MEASURED"}
    more = {"run": run, "seeds": sorted(seeds)}
    records = [
        Record(problem=" ".join(key).strip(), experiment="fuzz", more=more | dict(counts), **facts)
        for key, counts in sorted(table.items())
    ]
    append(path, records)


def rate(counts):
    """Return how many of the solvable systems converged."""
    solvable = counts["fine"] + counts["missed"]
    return counts["fine"] / solvable if solvable else 1.0


def lines(table):
    """Return the figures as Markdown."""
    head = "| | systems | lies | crashes | solvable | of these converged |\n|---|---:|---:|---:|---:|---:|"
    rows = [
        f"| {' '.join(key).strip()} | {sum(c.values())} | {c['lie']} | {c['crash']} | {c['fine'] + c['missed']} "
        f"| {100 * rate(c):.3f} % |"
        for key, c in sorted(table.items())
    ]  # fmt: skip
    return "\n".join([head, *rows])


def main(given):
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="systems", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case: one case again is --count 1")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--output", type=Path, help="append figures and failures per 1,000 cases; goes on if it exists")
    parser.add_argument(
        "--publish", type=Path, nargs="+", help="such files: their sums go into the records of the docs"
    )
    options = parser.parse_args(given)
    if options.publish:
        publish(options.publish)
        table, bad, _ = joined(options.publish)
    elif options.output:
        fuzz_in_chunks(options.count, options.seed, options.first, options.seconds, options.output)
        table, bad, _ = joined([options.output])
    else:
        table, bad = fuzz(options.count, options.seed, options.first, options.seconds)
    print(lines(table))
    for one in bad[:20]:
        print(one["verdict"], one["words"], one["case"], sep="\n  ")
    total = table[("all", "")]
    return int(total["lie"] + total["crash"] > 0 or rate(total) < 0.995)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
