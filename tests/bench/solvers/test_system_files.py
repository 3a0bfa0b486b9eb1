"""Files of strangers: what is right is read in every layout, what is not is refused in one sentence, no crash."""

import gzip
import io

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from krylearn.bench.measure.console import UsageError
from krylearn.bench.solvers import system_files
from krylearn.bench.solvers.system_files import load_cells, load_matrix, load_vector, save_vector

from tests.fuzz import files as hostile


@pytest.fixture
def matrix():
    rng = np.random.default_rng(41_201)
    dense = rng.standard_normal((6, 6)) * (rng.random((6, 6)) < 0.5)
    return sp.csr_array(dense + np.diag(np.arange(1.0, 7.0)))


def market(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "dia", "bsr"])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "i4", "u2", "?"])
def test_every_layout_and_dtype_of_scipy_is_read(tmp_path, matrix, layout, dtype):
    expected = sp.csr_array(np.trunc(matrix.toarray() * 8).astype(dtype) if dtype[0] in "iu?" else matrix.astype(dtype))
    made = expected.tobsr((2, 3)) if layout == "bsr" else getattr(expected, f"to{layout}")()
    sp.save_npz(tmp_path / "A.npz", made)
    found = load_matrix(tmp_path / "A.npz")
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    assert found.dtype == (np.float32 if "f4" in dtype else np.float64)


@pytest.mark.parametrize("dtype", [">f8", ">f4", "f2", "longdouble", ">i4", "bool"])
def test_numbers_of_other_machines_are_read(tmp_path, matrix, dtype):
    values = np.trunc(matrix.data * 4).astype(dtype)
    arrays = {"indices": matrix.indices.astype(">i8"), "indptr": matrix.indptr.astype("u2"), "shape": matrix.shape}
    np.savez(tmp_path / "A.npz", data=values, format=b"csr", **arrays)
    expected = sp.csr_array((values.astype(float), matrix.indices, matrix.indptr), matrix.shape)
    np.testing.assert_array_equal(load_matrix(tmp_path / "A.npz").toarray(), expected.toarray())
    np.save(tmp_path / "b.npy", values)
    np.testing.assert_array_equal(load_vector(tmp_path / "b.npy"), values.astype(float))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
def test_matrix_market_agrees_with_scipy(tmp_path, matrix, symmetry, packed, dense):
    full = {"general": matrix, "symmetric": matrix + matrix.T, "skew-symmetric": matrix - matrix.T}[symmetry]
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, full.toarray() if dense else full, symmetry=symmetry, comment="one\ntwo")
    path = tmp_path / ("A.mtx.gz" if packed else "A.mtx")
    path.write_bytes(gzip.compress(stream.getvalue()) if packed else stream.getvalue())
    np.testing.assert_array_equal(load_matrix(path, rows=6).toarray(), full.toarray())


def test_a_pattern_holds_ones_and_duplicates_add_up(tmp_path):
    head = "%%MatrixMarket matrix coordinate pattern symmetric\n"
    found = load_matrix(market(tmp_path / "A.mtx", head + "2 2 2\n1 1\n2 1\n"))
    np.testing.assert_array_equal(found.toarray(), [[1, 1], [1, 0]])
    head = "%%MatrixMarket matrix coordinate real general\n"
    found = load_matrix(market(tmp_path / "B.mtx", head + "2 2 3\n1 1 1\n1 1 2.5\n2 2 1\n"))
    np.testing.assert_array_equal(found.toarray(), [[3.5, 0], [0, 1]])


@pytest.mark.parametrize("number", ["1.25D+01", "1.25d1", "12.5E0", "+12.5", "125.D-1", ".125D2"])
def test_exponents_of_fortran_are_read(tmp_path, number):
    head = "%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 "
    assert load_matrix(market(tmp_path / "A.mtx", f"{head}{number}\n")).toarray() == 12.5
    assert load_vector(market(tmp_path / "b.txt", f"{number}\n{number}\n")).tolist() == [12.5, 12.5]


def test_a_decimal_comma_is_named(tmp_path):
    head = "%%MatrixMarket matrix coordinate real general\n1 1 1\n"
    with pytest.raises(UsageError, match=r"'1,5'.*with a point, not a comma"):
        load_matrix(market(tmp_path / "A.mtx", head + "1 1 1,5\n"))
    with pytest.raises(UsageError, match="with a point, not a comma"):
        load_vector(market(tmp_path / "b.txt", "1,5\n2,5\n"))


def test_windows_files_are_read(tmp_path):
    text = "\ufeff%%MatrixMarket matrix array real general\r\n% note\r\n2 1\r\n1.5\r\n2.5\r\n"
    path = tmp_path / "b.mtx"
    path.write_bytes(text.encode())
    assert load_vector(path, 2).tolist() == [1.5, 2.5]


def test_rows_are_compared_with_the_grid_before_room_is_taken(tmp_path, matrix):
    path = market(tmp_path / "A.mtx", "%%MatrixMarket matrix coordinate real general\n2000000000 2000000000 1\n1 1 1\n")
    with pytest.raises(UsageError, match="2000000000 rows; expected at most 30, as many as --shape has cells"):
        load_matrix(path, rows=30)
    shape = np.array([2 * 10**9] * 2)
    entries = {"data": np.ones(1), "row": np.zeros(1, int), "col": np.zeros(1, int), "format": b"coo", "shape": shape}
    np.savez(tmp_path / "A.npz", **entries)
    with pytest.raises(UsageError, match="expected at most 30"):
        load_matrix(tmp_path / "A.npz", rows=30)


def test_what_would_not_fit_into_memory_is_not_unpacked(tmp_path, monkeypatch):
    (tmp_path / "b.txt").write_text("0\n" * 10**6)
    (tmp_path / "b.mtx.gz").write_bytes(gzip.compress(b"0\n" * 10**6))
    np.savez_compressed(tmp_path / "b.npz", b=np.zeros(10**6))
    monkeypatch.setattr(system_files.os, "sysconf", lambda name: 1000)  # a machine with one megabyte
    for name in ("b.txt", "b.mtx.gz", "b.npz"):
        with pytest.raises(UsageError, match=r"asks for .* GiB; expected at most a third of"):
            load_vector(tmp_path / name)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    (tmp_path / "A.mtx").symlink_to("/dev/zero")
    (tmp_path / "b.npy").mkdir()
    for load, name in ((load_matrix, "A.mtx"), (load_vector, "b.npy"), (load_cells, "b.npy")):
        with pytest.raises(UsageError, match="is no regular file; expected"):
            load(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        load_cells(tmp_path / "nothing.npy")


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".mtx"])
def test_a_vector_comes_back(tmp_path, suffix):
    x = np.random.default_rng(41_203).standard_normal(9)
    save_vector(tmp_path / f"x{suffix}", x)
    np.testing.assert_array_equal(load_vector(tmp_path / f"x{suffix}", 9), x)


def test_hostile_files_in_a_short_run():
    for which, count in (("systems", 64), ("weights", 27)):
        done = hostile.run(which, count, seed=41_207)
        assert len(done) == count
        assert [case for case in done if case[2]] == []
