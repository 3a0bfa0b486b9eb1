"""Hostile files: matrices, right-hand sides, masks, weights, checkpoints and records that strangers might send.

    make fuzz ARGS="files --systems 2000 --weights 1000 --seed 7"

Every file goes through the command line or the function that a user calls. Allowed: exit code 2 and one sentence, or an
exception that names the file; a file that random changes have left whole may also be solved. Not allowed: a signal, a
traceback, an internal error, anything executed out of a file, a file that is certainly broken and was taken. The cases
run in child processes, so that a crash is counted and its file named.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

SHAPE = (5, 6)
TRAP = "exploded"


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(TRAP),)


def good_system():
    from krylearn.pde import Poisson

    rng = np.random.default_rng(0)
    A = Poisson.from_coefficients(np.exp(rng.standard_normal(SHAPE)))
    return A.matrix().tocsr(), rng.standard_normal(A.shape[0])


def matrix_market(matrix):
    entries = matrix.tocoo()
    lines = [f"{i + 1} {j + 1} {v:.17g}" for i, j, v in zip(entries.row, entries.col, entries.data, strict=True)]
    head = f"%%MatrixMarket matrix coordinate real general\n%\n{matrix.shape[0]} {matrix.shape[1]} {len(lines)}\n"
    return head + "\n".join(lines) + "\n"


def npz(arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(shape, descr="<f8", extra=b""):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + extra


def csr_arrays(matrix, **changes):
    facts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": matrix.shape}
    return {k: np.array(v) for k, v in (facts | {"format": b"csr"} | changes).items() if v is not None}


def cut(rng, data):
    return data[: int(rng.integers(1, max(2, len(data) - 9)))]


def changed(array, place, value, dtype=None):
    array = np.array(array, dtype)
    array[place] = value
    return array


# Each kind returns (name of the file, its bytes): certainly broken, so exit code 2. `rng` varies where it is broken.
MATRICES = {}
VECTORS = {}
CELLS = {}


def kind(table):
    def add(function):
        table[function.__name__] = function
        return function

    return add


def line_of(rng, text):
    lines = text.split("\n")
    return lines, int(rng.integers(3, len(lines) - 1))


def with_line(rng, matrix, change):
    lines, k = line_of(rng, matrix_market(matrix))
    lines[k] = change(lines[k])
    return "A.mtx", "\n".join(lines).encode()


@kind(MATRICES)
def decimal_comma(rng, A, b):
    return with_line(rng, A, lambda line: line.replace(".", ","))


@kind(MATRICES)
def two_numbers_instead_of_three(rng, A, b):
    return with_line(rng, A, lambda line: line.rsplit(" ", 1)[0])


@kind(MATRICES)
def four_numbers(rng, A, b):
    return with_line(rng, A, lambda line: line + " 7")


@kind(MATRICES)
def words(rng, A, b):
    return with_line(rng, A, lambda line: line + str(rng.choice(["x", ";", "\0", "é", "#", "1"])) * 3 + "z")


@kind(MATRICES)
def index_out_of_range(rng, A, b):
    wrong = rng.choice([0, -1, 31, 2**31, 2**32 + 1, 2**63, 10**30])
    return with_line(rng, A, lambda line: f"{wrong} " + line.split(" ", 1)[1])


@kind(MATRICES)
def index_that_is_no_whole_number(rng, A, b):
    return with_line(rng, A, lambda line: f"{rng.choice(['1.5', 'nan', 'inf', '1e-9'])} " + line.split(" ", 1)[1])


@kind(MATRICES)
def value_not_finite(rng, A, b):
    value = rng.choice(["nan", "inf", "-inf", "1e999", "NaN"])
    return with_line(rng, A, lambda line: line.rsplit(" ", 1)[0] + f" {value}")


@kind(MATRICES)
def huge_header(rng, A, b):
    n, nnz = int(rng.choice([2 * 10**9, 10**12, 10**18])), int(rng.choice([30, 10**10, 10**18]))
    layout = rng.choice(["coordinate", "array"])
    sizes = f"{n} {n} {nnz}" if layout == "coordinate" else f"{n} {n}"
    return "A.mtx", f"%%MatrixMarket matrix {layout} real general\n{sizes}\n1 1 1.0\n".encode()


@kind(MATRICES)
def wrong_header(rng, A, b):
    text = matrix_market(A)
    first = rng.choice([
        "", "%%MatrixMarket", "%%MatrixMarket matrix coordinate complex general", "%%MatrixMarket matrix array",
        "%%MatrixMarket vector coordinate real general", "%%MatrixMarket matrix coordinate real hermitian",
        "%%MatrixMarket matrix coordinate text general", "MatrixMarket matrix coordinate real general", "\0" * 100,
        "%%MatrixMarket matrix coordinate real " + "x" * 10**5,
    ])  # fmt: skip
    return "A.mtx", (first + "\n" + text.split("\n", 1)[1]).encode("utf-8")


@kind(MATRICES)
def wrong_sizes(rng, A, b):
    lines = matrix_market(A).split("\n")
    lines[2] = str(
        rng.choice(["", "x y z", "-30 30 4", "30 30", "30 30 7 1", "30.0 30 7", "30 30 1", "31 30 116", "0 0 0"])
    )
    return "A.mtx", "\n".join(lines).encode()


@kind(MATRICES)
def both_triangles_of_a_symmetric_file(rng, A, b):
    return "A.mtx", matrix_market(A).replace("general", "symmetric", 1).encode()


@kind(MATRICES)
def cut_off_text(rng, A, b):
    text = matrix_market(A)
    return "A.mtx", text[: int(rng.integers(1, text.rstrip().rindex("\n")))].encode()


@kind(MATRICES)
def cut_off_gzip(rng, A, b):
    return "A.mtx.gz", cut(rng, gzip.compress(matrix_market(A).encode()))


@kind(MATRICES)
def damaged_gzip(rng, A, b):
    data = bytearray(gzip.compress(matrix_market(A).encode()))
    for place in rng.integers(10, len(data), 8):
        data[place] ^= int(rng.integers(1, 256))
    return "A.mtx.gz", bytes(data)


@kind(MATRICES)
def text_of_another_encoding(rng, A, b):
    return "A.mtx", matrix_market(A).encode(str(rng.choice(["utf-16", "utf-32", "utf-16-be"])))


@kind(MATRICES)
def nothing(rng, A, b):
    return str(rng.choice(["A.mtx", "A.npz", "A.mtx.gz"])), b"" if rng.random() < 0.5 else b"\n" * 5


@kind(MATRICES)
def noise(rng, A, b):
    return str(rng.choice(["A.mtx", "A.npz", "A.mtx.gz"])), rng.bytes(int(rng.integers(1, 5000)))


@kind(MATRICES)
def pickled_matrix(rng, A, b):
    return str(rng.choice(["A.mtx", "A.npz"])), pickle.dumps(Bomb(), protocol=int(rng.integers(0, 6)))


@kind(MATRICES)
def pickled_member(rng, A, b):
    which = str(rng.choice(["data", "indices", "indptr", "shape", "format"]))
    return "A.npz", npz(csr_arrays(A, **{which: np.array([Bomb()], dtype=object)}))


@kind(MATRICES)
def row_pointers_that_fall(rng, A, b):
    place, value = int(rng.integers(1, len(A.indptr))), int(rng.choice([-5, 10**6, 2**31 - 1, -(2**31)]))
    return "A.npz", npz(csr_arrays(A, indptr=changed(A.indptr, place, value)))


@kind(MATRICES)
def row_pointers_of_another_size(rng, A, b):
    wrong = [
        A.indptr[:-1],
        A.indptr[:0],
        np.r_[A.indptr, A.indptr[-1]],
        A.indptr.astype(float),
        A.indptr[None],
        A.indptr + 1,
    ]
    return "A.npz", npz(csr_arrays(A, indptr=wrong[int(rng.integers(len(wrong)))]))


@kind(MATRICES)
def column_out_of_range(rng, A, b):
    place, value = int(rng.integers(len(A.indices))), int(rng.choice([-1, 30, 2**31 - 1, 2**40, -(2**62)]))
    return "A.npz", npz(csr_arrays(A, indices=changed(A.indices, place, value, np.int64)))


@kind(MATRICES)
def arrays_of_other_sizes(rng, A, b):
    changes = [
        {"data": A.data[:-3]}, {"indices": A.indices[:-3]}, {"data": A.data[None]}, {"data": np.float64(3.0)},
        {"data": A.data + 1j}, {"data": np.array(["a"] * A.nnz)}, {"shape": (30, -30)}, {"shape": (30,)},
        {"shape": (2 * 10**9, 2 * 10**9)}, {"shape": (2**62, 2**62)}, {"shape": "x"}, {"shape": (15, 15)},
        {"format": b"csc2"}, {"format": b"bsr"}, {"format": b"dia"}, {"format": b"coo"}, {"format": 3},
        {"data": A.data * np.nan}, {"shape": (30, 60)}, {"shape": (0, 0)},
    ]  # fmt: skip
    return "A.npz", npz(csr_arrays(A, **changes[int(rng.integers(len(changes)))]))


@kind(MATRICES)
def arrays_absent(rng, A, b):
    which = str(rng.choice(["data", "indices", "indptr", "shape", "format"]))
    return "A.npz", npz(csr_arrays(A, **{which: None}))


@kind(MATRICES)
def triplets_out_of_range(rng, A, b):
    entries = A.tocoo()
    facts = {"data": entries.data, "row": entries.row, "col": entries.col, "shape": A.shape, "format": b"coo"}
    which = str(rng.choice(["row", "col"]))
    facts[which] = changed(facts[which], int(rng.integers(A.nnz)), int(rng.choice([-1, 30, 2**40])), np.int64)
    return "A.npz", npz(facts)


@kind(MATRICES)
def diagonals_out_of_range(rng, A, b):
    offsets = [[0, 0], [2**31, 0], [-(2**62), 1], [0.5, 1], [[0, 1]]][int(rng.integers(5))]
    return "A.npz", npz({"data": np.ones((2, 30)), "offsets": np.array(offsets), "shape": A.shape, "format": b"dia"})


@kind(MATRICES)
def blocks_that_do_not_fit(rng, A, b):
    data = [np.ones((4, 7, 2)), np.ones((4, 0, 0)), np.ones((4, 2, 2)), np.ones((0, 2, 2))][int(rng.integers(4))]
    facts = {"indices": np.arange(4) * 9, "indptr": np.r_[np.zeros(15, int), 4], "shape": A.shape, "format": b"bsr"}
    return "A.npz", npz(facts | {"data": data})


@kind(MATRICES)
def cut_off_archive(rng, A, b):
    return "A.npz", cut(rng, npz(csr_arrays(A)))


@kind(MATRICES)
def member_that_claims_everything(rng, A, b):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in csr_arrays(A).items():
            lie = npy_header(f"({int(rng.choice([10**10, 10**15, 2**62]))},)", extra=b"\0" * 64)
            archive.writestr(f"{name}.npy", lie if name == "data" else npy(array))
    return "A.npz", stream.getvalue()


@kind(MATRICES)
def no_poisson_matrix(rng, A, b):
    wrong = A.tolil()
    i, j = rng.choice(30, 2, replace=False)
    wrong[i, j] += float(rng.choice([5.0, -1e5, 1e300]))
    return "A.mtx", matrix_market(wrong.tocsr()).encode()


@kind(VECTORS)
def short_or_long(rng, A, b):
    return "b.npy", npy(rng.standard_normal(int(rng.choice([0, 1, 29, 31, 900]))))


@kind(VECTORS)
def not_finite(rng, A, b):
    wrong = changed(b, int(rng.integers(30)), rng.choice([np.nan, np.inf]))
    return ("b.npy", npy(wrong)) if rng.random() < 0.5 else ("b.txt", "\n".join(map(str, wrong)).encode())


@kind(VECTORS)
def no_numbers(rng, A, b):
    wrong = [b + 1j, b.astype("U8"), b.astype("M8[s]"), np.array([Bomb()] * 30, object), np.zeros(30, "f8,i4"), b > 0]
    return "b.npy", npy(wrong[int(rng.integers(5))])


@kind(VECTORS)
def header_that_lies(rng, A, b):
    shapes = ["(10**9,)", "(1000000000000,)", "(-30,)", "('a',)", "(30, 99999999999999999999)", "30", "(((((" * 900]
    descr = str(rng.choice(["<f8", "|O", "<f99", "x" * 3000, "<V8"]))
    return "b.npy", npy_header(shapes[int(rng.integers(len(shapes)))], descr, npy(b)[-200:])


@kind(VECTORS)
def cut_off_vector(rng, A, b):
    data = npy(b) if rng.random() < 0.5 else npz({"b": b})
    return ("b.npy" if data[:2] != b"PK" else "b.npz"), data[: int(rng.integers(1, len(data) - 1))]


@kind(VECTORS)
def several_arrays(rng, A, b):
    return str(rng.choice(["b.npz", "b.npy"])), npz({"b": b, "c": b})


@kind(VECTORS)
def text_with_commas_or_words(rng, A, b):
    lines = [f"{v:.6f}" for v in b]
    place = int(rng.integers(30))
    lines[place] = str(rng.choice([lines[place].replace(".", ","), "x", "1 2", "--1", "1.2.3", "0x10p", "\0"]))
    return "b.txt", "\n".join(lines).encode()


@kind(VECTORS)
def market_vector_cut_off(rng, A, b):
    text = f"%%MatrixMarket matrix array real general\n{rng.choice([30, 31, 2 * 10**9])} 1\n"
    return "b.mtx", (text + "\n".join(f"{v:.17g}" for v in b[: int(rng.integers(29))])).encode()


@kind(VECTORS)
def pickled_vector(rng, A, b):
    return str(rng.choice(["b.npy", "b.npz", "b.txt", "b.mtx"])), pickle.dumps(Bomb(), protocol=int(rng.integers(0, 6)))


@kind(VECTORS)
def noise_vector(rng, A, b):
    return str(rng.choice(["b.npy", "b.npz", "b.txt", "b.mtx", "b.mtx.gz"])), rng.bytes(int(rng.integers(1, 3000)))


@kind(CELLS)
def mask_of_another_kind(rng, A, b):
    ones = np.ones(SHAPE)
    wrong = [ones * np.nan, ones + 0.5, ones + 1j, ones.astype("U3"), ones * 1e300, ones[:-1], ones[None], np.array(1),
             ones * 7, -ones, np.array([Bomb()], object), ones * 0]  # fmt: skip
    return "cells.npy", npy(wrong[int(rng.integers(len(wrong)))])


@kind(CELLS)
def mask_cut_off(rng, A, b):
    return "cells.npy", cut(rng, npy(np.ones(SHAPE)))


@kind(CELLS)
def mask_pickled(rng, A, b):
    return "cells.npy", pickle.dumps(Bomb(), protocol=int(rng.integers(0, 6)))


def mutated(rng, data):
    """Change, insert, remove or repeat a few bytes."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(data)))
        turn = rng.integers(4)
        if turn == 0:
            data[place] = int(rng.integers(256))
        elif turn == 1:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif turn == 2:
            del data[place : place + int(rng.integers(1, 9))]
        else:
            data[place:place] = data[place : place + int(rng.integers(1, 40))]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def system_case(number, seed):
    """Return a name, the files, whether they are certainly broken, and the arguments of the command line."""
    rng = np.random.default_rng((seed, 1, number))
    A, b = good_system()
    files = {"A.npz": npz(csr_arrays(A)), "b.npy": npy(b), "cells.npy": npy(np.ones(SHAPE, int))}
    names = {"A": "A.npz", "b": "b.npy", "cells": None}
    broken = number % 4 != 3
    if broken:
        every = (
            [("A", name) for name in MATRICES] + [("b", name) for name in VECTORS] + [("cells", name) for name in CELLS]
        )
        which, name = every[(number - number // 4) % len(every)]
        names[which], data = {"A": MATRICES, "b": VECTORS, "cells": CELLS}[which][name](rng, A, b)
    else:
        sound = {
            "A": [("A.mtx", matrix_market(A).encode()), ("A.npz", files["A.npz"]),
                  ("A.mtx.gz", gzip.compress(matrix_market(A).encode()))],
            "b": [("b.npy", files["b.npy"]), ("b.txt", "\n".join(map(str, b)).encode()), ("b.npz", npz({"b": b}))],
            "cells": [("cells.npy", files["cells.npy"])],
        }  # fmt: skip
        which = str(rng.choice(["A", "b", "cells"], p=[0.6, 0.3, 0.1]))
        names[which], data = sound[which][int(rng.integers(len(sound[which])))]
        name, data = f"mutated {names[which]}", mutated(rng, data)
    files[names[which]] = data
    arguments = ["solve", names["A"], names["b"], "--weights", "geometric"]
    arguments += ["--shape", *map(str, SHAPE)] if number % 3 or names["cells"] else []
    arguments += ["--cells", names["cells"]] if names["cells"] else []
    return name, files, broken, arguments


def measured_without_a_grid(matrix):
    """Return what is wrong with how `krylearn bench solvers --matrix` takes a matrix, or ''."""
    from krylearn.bench.measure.console import UsageError
    from krylearn.bench.solvers.file_problem import file_problem

    try:
        file_problem(Path(matrix))
    except UsageError as error:
        return "" if "expected" in str(error) else f"no expectation: {error}"
    return ""


def run_system(number, seed):
    """Return the name of a case and what is wrong with the outcome, or ''."""
    from krylearn.bench.cli import main

    name, files, broken, arguments = system_case(number, seed)
    for file, data in files.items():
        Path(file).write_bytes(data)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    said = err.getvalue()
    unclear = measured_without_a_grid(arguments[1])
    for file in files:
        Path(file).unlink()
    if Path(TRAP).exists():
        Path(TRAP).unlink()
        return name, "something was executed"
    if unclear:
        return name, unclear
    if "Traceback" in said or "report it" in said:
        return name, said
    if broken and code != 2:
        return name, f"taken with exit code {code}: {out.getvalue()[-400:]} {said}"
    if code == 2 and (len(said.strip().splitlines()) != 1 or "expected" not in said):
        return name, f"not one sentence with an expectation: {said}"
    return name, "" if code in (0, 1, 2) else f"exit code {code}"


# --- weights ----------------------------------------------------------------------------------------------------------


def good_weights():
    """Return (loader, bytes) of one small file of every architecture."""
    import torch
    from krylearn.solvers.multigrid.network import CoefficientNetwork
    from krylearn.solvers.multigrid.weight_files import load_weights, save_weights
    from krylearn.solvers.published.dcdm_method import load_network, save_network
    from krylearn.solvers.published.dcdm_network import DCDMNetwork
    from krylearn.solvers.published.npsdo_method import NPSDONetwork, load_npsdo, save_npsdo

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        made = [
            (load_weights, save_weights(CoefficientNetwork(4), f"{folder}/a", {"dimension": 3})),
            (load_network, save_network(DCDMNetwork(64, 2, 2), f"{folder}/b", {})),
            (load_npsdo, save_npsdo(NPSDONetwork(1, 2, symmetric=False), f"{folder}/c", {})),
        ]
        return [(load, path.read_bytes()) for load, path in made]


def header_of(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def lie_about_a_tensor(rng, data):
    header, body = header_of(data)
    name = str(rng.choice([n for n in header if n != "__metadata__"]))
    lies = [
        {"dtype": "F99"}, {"dtype": "I64"}, {"dtype": "BF16"}, {"dtype": "F8_E4M3"}, {"dtype": "BOOL"},
        {"dtype": "C64"},
        {"shape": [2**40, 2**40]}, {"shape": [-1]}, {"shape": []}, {"shape": [0]}, {"shape": "x"}, {"shape": [1.5]},
        {"data_offsets": [0, 2**60]}, {"data_offsets": [8, 4]}, {"data_offsets": [-8, 0]}, {"data_offsets": []},
    ]  # fmt: skip
    header[name] |= lies[int(rng.integers(len(lies)))]
    return with_header(header, body)


def lie_about_the_network(rng, data):
    header, body = header_of(data)
    facts = header["__metadata__"]
    which = str(rng.choice([n for n in facts if n not in ("sha256",)]))
    value = rng.choice(["", "-1", "0", "3", "1023", "999999999", "9" * 5000, "nan", "../../etc", "\0", "٣", "1e9"])
    if facts[which] == value or which == "dimension":
        which = "architecture"
    facts[which] = str(value)
    return with_header(header, body)


def change_the_facts(rng, data):
    header, body = header_of(data)
    turn = int(rng.integers(5))
    if turn == 0:
        header["__metadata__"].pop(str(rng.choice(["sha256", "architecture"])))
    elif turn == 1:
        header.pop("__metadata__")
    elif turn == 2:
        header["__metadata__"] = {"architecture": ["a"], "hidden": 3}
    elif turn == 3:
        header = [header]
    else:
        header["more"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
        body += bytes(8)
    return with_header(header, body)


def change_a_value(rng, data):
    start = 8 + struct.unpack("<Q", data[:8])[0]
    place = int(rng.integers(start, len(data)))
    return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]


def length_that_lies(rng, data):
    return struct.pack("<Q", int(rng.choice([0, 1, 10**6, 2**40, 2**64 - 1], p=[0.2] * 5) % 2**64)) + data[8:]


def pickled_weights(rng, data):
    if rng.random() < 0.5:
        return pickle.dumps(Bomb(), protocol=int(rng.integers(0, 6)))
    import torch

    stream = io.BytesIO()
    torch.save({"w": Bomb()}, stream, _use_new_zipfile_serialization=bool(rng.integers(2)))
    return stream.getvalue()


WEIGHTS = (
    lie_about_a_tensor, lie_about_the_network, change_the_facts, change_a_value, length_that_lies, pickled_weights, cut,
    mutated, lambda rng, data: rng.bytes(int(rng.integers(0, 5000))),
)  # fmt: skip


def run_weights(number, seed):
    """Load one broken file of weights; it may only load if it holds the very same numbers."""
    import torch

    rng = np.random.default_rng((seed, 2, number))
    every = good_weights()
    load, data = every[number % len(every)]
    change = WEIGHTS[(number // len(every)) % len(WEIGHTS)]
    name, file = f"{load.__name__} {change.__name__}", Path("w.safetensors")
    file.write_bytes(data)
    expected = load(file).state_dict()
    file.write_bytes(change(rng, data))
    try:
        found = load(file).state_dict()
    except ValueError as error:
        problem = "" if file.name in str(error) and len(str(error)) < 1000 else f"unclear: {error}"
    else:
        same = found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
        problem = "" if same else "other numbers were taken"
    if Path(TRAP).exists():
        Path(TRAP).unlink()
        problem = "something was executed"
    return name, problem


# --- running ----------------------------------------------------------------------------------------------------------


RUNNERS = {"systems": run_system, "weights": run_weights}


def work(which, first, last, seed):
    """Run cases in this process; one line of JSON each, before (so that a crash has a name) and after."""
    import warnings

    warnings.simplefilter("error")
    for number in range(first, last):
        print(json.dumps({"number": number}), flush=True)
        try:
            name, problem = RUNNERS[which](number, seed)
        except Exception as error:
            name, problem = "unknown", f"{type(error).__name__}: {error}"
        print(json.dumps({"number": number, "name": name, "problem": problem}), flush=True)


def run(which, count, seed):
    """Run cases in child processes; return a list of (number, name, problem) of all, problem '' if there is none."""
    done, first = [], 0
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    while first < count:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.files",
            "--work",
            which,
            str(first),
            str(count),
            "--seed",
            str(seed),
        ]
        with tempfile.TemporaryDirectory() as folder:
            child = subprocess.run(
                command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
            )
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        done += [(line["number"], line["name"], line["problem"]) for line in lines if "name" in line]
        if child.returncode == 0:
            break
        if not lines:
            raise RuntimeError(child.stderr)
        code = child.returncode
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}: {child.stderr[-500:]}"
        done.append((lines[-1]["number"], "?", f"the process died: {what}"))
        first = lines[-1]["number"] + 1
    return done


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", type=int, default=1000)
    parser.add_argument("--weights", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work[0], int(options.work[1]), int(options.work[2]), options.seed)
        return 0
    bad = 0
    for which in RUNNERS:
        done = run(which, getattr(options, which), options.seed)
        wrong = [case for case in done if case[2]]
        bad += len(wrong)
        print(f"{which}: {len(done)} hostile files, {len(wrong)} with a wrong outcome (seed {options.seed})")
        for number, name, problem in wrong:
            print(f"  {number} {name}: {problem}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
