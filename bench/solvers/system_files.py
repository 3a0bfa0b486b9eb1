"""Matrices, right-hand sides and masks out of files of strangers: whatever is in them, the answer is a sentence.

A file is read as data: nothing is unpickled or executed. Text is parsed by NumPy, since SciPy's reader of Matrix Market
files ignores what follows a number (``1,5`` becomes 1 and ``1.0D+05`` becomes 1), and the arrays of a sparse matrix are
checked before any compiled code takes them for indices.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse as sp
from krylearn.solvers.files import check_writable, is_direct, replacing

from ..measure.console import UsageError

MATRIX_KINDS = "Matrix Market (.mtx, .mtx.gz) or SciPy's .npz (scipy.sparse.save_npz)"
VECTOR_KINDS = "Matrix Market (.mtx, .mtx.gz), NumPy (.npy, .npz with one array) or text (.txt)"
CELL_KINDS = "NumPy's .npy with 0 SOLID, 1 FLUID, 2 OPEN, or booleans (True = FLUID)"
FORTRAN = re.compile(rb"(?<=[0-9.])[dD](?=[+-]?[0-9])")  # the exponent of 1.5D+00


def load_matrix(path: Path, rows: int | None = None) -> sp.csr_array:
    """Read a square, real sparse matrix in fp64 (fp32 stays fp32).

    Parameters
    ----------
    path : file, see `MATRIX_KINDS`
    rows : the most that it may have, as many as the grid has cells; compared before room for them is taken

    Raises
    ------
    UsageError
        Says what the file holds and what is expected.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "A.npz"
    >>> sp.save_npz(file, sp.csr_matrix(np.diag([2.0, 4.0])))
    >>> load_matrix(file).shape
    (2, 2)
    """
    with _reading(path, "a sparse matrix", MATRIX_KINDS):
        kind = _kind(path)
        if kind == ".mtx":
            matrix = _read_matrix_market(path, rows)
        elif kind == ".npz":
            matrix = _read_sparse_arrays(path, rows)
        else:
            raise UsageError(f"{path} ends in '{path.suffix}'; expected {MATRIX_KINDS}")
        if matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
            raise UsageError(f"{path} holds a matrix of shape {matrix.shape}; expected a real square one")
        _check_finite(path, matrix.data)
        csr = sp.csr_array(matrix)
        csr.sum_duplicates()
        return csr


def load_vector(path: Path, size: int | None = None) -> np.ndarray:
    r"""Read a real vector in fp64; `size` is what the matrix asks for.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "b.txt"
    >>> _ = file.write_text("1.5\n2.5\n")
    >>> load_vector(file, 2)
    array([1.5, 2.5])
    """
    with _reading(path, "a vector", VECTOR_KINDS):
        vector = np.asarray(_read_vector(path, size))
        if size is not None and vector.size != size:
            got = f"{vector.shape} = {vector.size} numbers"
            raise UsageError(f"{path} holds {got}; expected {size}, one per matrix row")
        values = _real(path, vector).astype(np.float64, copy=False).reshape(-1)
        _check_finite(path, values)
        return values


def load_cells(path: Path) -> np.ndarray:
    """Read a mask of cells: `Cell` codes (0 SOLID, 1 FLUID, 2 OPEN) or booleans (True = FLUID).

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cells.npy"
    >>> np.save(file, np.array([[True, False]]))
    >>> load_cells(file).tolist()
    [[1, 0]]
    """
    with _reading(path, "a cell mask", CELL_KINDS):
        _check_room(path, os.path.getsize(path))
        cells = np.load(path, allow_pickle=False)
        if not isinstance(cells, np.ndarray) or cells.dtype.kind not in "biuf":
            raise UsageError(f"{path} holds {getattr(cells, 'dtype', 'several arrays')}; expected {CELL_KINDS}")
        codes = cells.astype(np.int64)
        if not np.array_equal(codes, cells):
            raise UsageError(f"{path} holds numbers that are not whole; expected {CELL_KINDS}")
        return codes


def save_vector(path: Path, x: np.ndarray) -> None:
    """Write a vector as .npy, .txt or .mtx, whole or not at all; as text into a device or pipe of another name.

    Raises
    ------
    NotWrittenError
        where it cannot be written; an older file is as it was

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "x.npy"
    >>> save_vector(file, np.array([1.0, 2.0]))
    >>> load_vector(file)
    array([1., 2.])
    """
    with replacing(path) as stream:
        if path.suffix == ".npy":
            np.lib.format.write_array(stream, x, allow_pickle=False)
        elif path.suffix == ".mtx":
            scipy.io.mmwrite(stream, x[:, None])
        else:
            np.savetxt(stream, x)


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before the time of a solve is spent on it.

    Examples
    --------
    >>> check_output(Path("x.npy"))
    """
    if path.suffix not in (".npy", ".txt", ".mtx") and not is_direct(path):
        raise UsageError(f"output {path} ends in '{path.suffix}'; expected .npy, .txt or .mtx")
    if not path.parent.is_dir():
        raise UsageError(f"output {path}: there is no folder {path.parent}; create it first")
    check_writable(path)


@contextmanager
def _reading(path: Path, what: str, kinds: str) -> Iterator[None]:
    """Turn whatever a broken file raises into one sentence: its bytes may be anything, so may be the exception."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} is no regular file; expected {kinds}")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # what matters of it is checked
            yield
    except UsageError:
        raise
    except MemoryError as error:
        raise UsageError(f"{path} asks for more memory than there is; expected {kinds}") from error
    except Exception as error:
        words = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        raise UsageError(f"{path} cannot be read as {what} ({words}); expected {kinds}") from error


def _kind(path: Path) -> str:
    return ".mtx" if path.name.endswith(".mtx.gz") else path.suffix


def _check_room(path: Path, size: int) -> None:
    """Refuse what would not fit into memory beside its copies."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if not 0 <= size <= memory // 3:
        raise UsageError(f"{path} asks for {size / 2**30:.3g} GiB; expected at most a third of {memory / 2**30:.3g}")


def _check_finite(path: Path, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        value = values[~np.isfinite(values)][0]
        raise UsageError(f"{path} holds the number {value}; expected finite ones")


def _real(path: Path, values: np.ndarray) -> np.ndarray:
    """Return numbers in fp32 or fp64."""
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{path} holds numbers of type {values.dtype}; expected real ones")
    narrow = values.dtype.kind == "f" and values.dtype.itemsize == 4
    return np.ascontiguousarray(values, np.float32 if narrow else np.float64)


# --- text -------------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> bytes:
    """Return a text file, unpacked if its name ends in .gz, with exponents as C writes them."""
    if path.suffix != ".gz":
        _check_room(path, os.path.getsize(path))
        text = path.read_bytes()
    else:
        parts, size = [], 0
        try:
            with gzip.open(path) as stream:
                while part := stream.read(1 << 24):
                    size += len(part)
                    _check_room(path, 2 * size)
                    parts.append(part)
        except (EOFError, zlib.error) as error:
            raise ValueError(f"it is cut off or damaged: {error}") from error
        text = b"".join(parts)
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]  # the mark that Windows puts before UTF-8
    return FORTRAN.sub(b"e", text)


def _parse_table(text: bytes, comments: str) -> np.ndarray:
    """Return the numbers of a text, one row per line; every line must hold as many."""
    try:
        return np.loadtxt(io.BytesIO(text), comments=comments, ndmin=2, encoding="latin-1")
    except ValueError as error:
        hint = "; numbers are written with a point, not a comma" if b"," in text else ""
        raise ValueError(f"{str(error).rstrip('.')}{hint}") from error


def _read_market_header(path: Path) -> tuple[str, str, str, list[int], bytes]:
    """Return format, field, symmetry and sizes of a Matrix Market file, and the text after them."""
    text = _read_text(path)
    first, _, rest = text.partition(b"\n")
    words = first[:1000].decode("latin-1").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise ValueError(f"it begins with {first[:40].decode('latin-1')!r}, not with '%%MatrixMarket matrix'")
    _, _, layout, field, symmetry = words
    if layout not in ("coordinate", "array"):
        raise ValueError(f"its format is '{layout}', not coordinate or array")
    if field not in ("real", "double", "integer", "unsigned-integer", "pattern"):
        raise ValueError(f"it holds {field} numbers; expected real ones")
    if symmetry not in ("general", "symmetric", "skew-symmetric"):
        raise ValueError(f"its symmetry is '{symmetry}', not general, symmetric or skew-symmetric")
    while rest:
        line, _, rest = rest.partition(b"\n")
        if line.strip() and not line.lstrip().startswith(b"%"):
            break
    else:
        raise ValueError("it has no line of sizes")
    sizes = line.split()
    if len(sizes) != (3 if layout == "coordinate" else 2) or not all(s.isdigit() and len(s) < 19 for s in sizes):
        raise ValueError(f"its line of sizes is {line[:60].decode('latin-1')!r}")
    return layout, field, symmetry, [int(s) for s in sizes], rest


def _read_matrix_market(path: Path, rows: int | None) -> sp.coo_array:
    """Read a sparse or dense matrix; duplicate entries add up."""
    layout, field, symmetry, sizes, body = _read_market_header(path)
    shape = (sizes[0], sizes[1])
    _check_rows(path, shape, rows)
    if layout == "array":
        _check_room(path, 16 * shape[0] * shape[1])
        return sp.coo_array(_fill_dense(shape, field, symmetry, body))
    width = 2 if field == "pattern" else 3
    table = _parse_table(body, "%") if sizes[2] else np.zeros((0, width))
    if table.shape != (sizes[2], width):
        got = f"{table.shape[0]} lines of {table.shape[1]} numbers"
        raise ValueError(f"it is cut off or damaged: it holds {got}, its header says {sizes[2]} of {width}")
    places, values = table[:, :2], table[:, 2] if width == 3 else np.ones(len(table))
    if not ((places >= 1) & (places <= shape) & (places == np.rint(places))).all():
        row = int(np.argmin(((places >= 1) & (places <= shape) & (places == np.rint(places))).all(axis=1)))
        raise ValueError(f"entry {row + 1} stands at {places[row].tolist()}, outside of {shape}")
    i, j = places.T.astype(np.int64) - 1
    if symmetry == "general":
        return sp.coo_array((values, (i, j)), shape)
    if (i > j).any() and (i < j).any():
        raise ValueError(f"it is {symmetry} and has entries on both sides of its diagonal; one triangle is stored")
    off = i != j
    mirrored = values[off] if symmetry == "symmetric" else -values[off]
    return sp.coo_array((np.r_[values, mirrored], (np.r_[i, j[off]], np.r_[j, i[off]])), shape)


def _fill_dense(shape: tuple[int, int], field: str, symmetry: str, body: bytes) -> np.ndarray:
    """Return a dense matrix, which is stored by columns, and by its lower triangle if it is symmetric."""
    n, m = shape
    if field == "pattern" or (symmetry != "general" and n != m):
        raise ValueError(f"it is a dense {symmetry} {field} matrix of {n} by {m}")
    count = n * m if symmetry == "general" else n * (n + 1) // 2 if symmetry == "symmetric" else n * (n - 1) // 2
    values = _parse_table(body, "%").reshape(-1) if count else np.zeros(0)
    if values.size != count:
        raise ValueError(f"it is cut off or damaged: it holds {values.size} numbers, its header says {count}")
    if symmetry == "general":
        return values.reshape(m, n).T
    full = np.zeros(shape)
    upper = np.triu_indices(n, 0 if symmetry == "symmetric" else 1)  # its rows are the columns of the lower one
    full[upper] = values if symmetry == "symmetric" else -values
    full.T[upper] = values
    return full


def _check_rows(path: Path, shape: tuple[int, int], rows: int | None) -> None:
    """Refuse a matrix with more rows than cells; without a grid, one whose rows would not fit into memory."""
    if rows is not None and shape[0] > rows:
        raise UsageError(f"{path} has {shape[0]} rows; expected at most {rows}, as many as --shape has cells")
    _check_room(path, 16 * max(shape))


# --- NumPy's and SciPy's binary files ---------------------------------------------------------------------------------


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; nothing is unpickled."""
    with zipfile.ZipFile(path) as archive:
        _check_room(path, sum(member.file_size for member in archive.infolist()))
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_sparse_arrays(path: Path, rows: int | None) -> sp.sparray:
    """Build what `scipy.sparse.save_npz` has written, after every index has been checked."""
    found = _read_arrays(path)
    layout = str(np.asarray(found["format"]).astype(str).item()) if "format" in found else "absent"
    shape_of = found["shape"]
    if shape_of.shape != (2,) or shape_of.dtype.kind not in "iu" or not (0 <= shape_of).all():
        raise ValueError(f"its shape is {shape_of.tolist()!r:.60}")
    shape = (int(shape_of[0]), int(shape_of[1]))
    _check_rows(path, shape, rows)
    data = _real(path, found["data"])
    if layout in ("csr", "csc"):
        if data.ndim != 1:
            raise ValueError(f"its data have {data.ndim} axes")
        indices, indptr = _check_compressed(found, shape if layout == "csr" else shape[::-1], len(data))
        make = sp.csr_array if layout == "csr" else sp.csc_array
        return make((data[: len(indices)], indices, indptr), shape)
    if layout == "bsr":
        blocks = data.shape[1:]
        if data.ndim != 3 or 0 in blocks or shape[0] % blocks[0] or shape[1] % blocks[1]:
            raise ValueError(f"its blocks are {blocks}")
        small = (shape[0] // blocks[0], shape[1] // blocks[1])
        indices, indptr = _check_compressed(found, small, len(data))
        return sp.bsr_array((data[: len(indices)], indices, indptr), shape)
    if layout == "coo":
        i, j = (_whole(found[name], bound) for name, bound in zip(("row", "col"), shape, strict=True))
        if not i.shape == j.shape == data.shape or data.ndim != 1:
            raise ValueError(f"its arrays have shapes {i.shape}, {j.shape}, {data.shape}")
        return sp.coo_array((data, (i, j)), shape)
    if layout == "dia":
        offsets = found["offsets"]
        if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or data.ndim != 2 or len(data) != len(offsets):
            raise ValueError(f"its offsets have shape {offsets.shape}, its data {data.shape}")
        if len(np.unique(offsets)) != len(offsets) or (abs(offsets.astype(np.float64)) > max(shape)).any():
            raise ValueError("its offsets are not distinct, or lie outside of it")
        return sp.dia_array((data, offsets.astype(np.int64)), shape)
    raise ValueError(f"its format is '{layout}'")


def _check_compressed(
    found: dict[str, np.ndarray], shape: tuple[int, int], stored: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and row pointers that no compiled code can run away with."""
    indptr = found["indptr"]
    if indptr.dtype.kind not in "iu" or indptr.shape != (shape[0] + 1,):
        raise ValueError(f"its indptr are {indptr.shape} {indptr.dtype} numbers for {shape[0]} rows")
    indptr = indptr.astype(np.int64)
    indices = _whole(found["indices"], shape[1])
    if indices.ndim != 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] > min(stored, len(indices)):
        raise ValueError("its indptr do not rise from 0 to the number of entries")
    return indices[: indptr[-1]], indptr


def _whole(values: np.ndarray, bound: int) -> np.ndarray:
    if values.dtype.kind not in "iu":
        raise ValueError(f"its indices are {values.dtype} numbers")
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least < 0 or most >= max(bound, 1):
        raise ValueError(f"its indices run from {least} to {most}, outside of 0 to {bound - 1}")
    return values.astype(np.int64)


def _read_vector(path: Path, size: int | None) -> np.ndarray:
    kind = _kind(path)
    if kind == ".mtx":
        layout, field, symmetry, sizes, body = _read_market_header(path)
        if size is not None and sizes[0] * sizes[1] != size:
            raise UsageError(f"{path} has {sizes[0]} by {sizes[1]} numbers; expected {size}, one per matrix row")
        _check_room(path, 8 * sizes[0] * sizes[1])
        if layout == "array":
            return _fill_dense((sizes[0], sizes[1]), field, symmetry, body)
        return _read_matrix_market(path, None).toarray()
    if kind == ".txt":
        text = _read_text(path)
        return _parse_table(text, "#") if text.strip() else np.zeros(0)
    if kind == ".npy":
        _check_room(path, os.path.getsize(path))
        vector = np.load(path, allow_pickle=False)
        if not isinstance(vector, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        return vector
    if kind == ".npz":
        arrays = _read_arrays(path)
        if len(arrays) != 1:
            raise ValueError(f"it holds the arrays {', '.join(arrays)}")
        return next(iter(arrays.values()))
    raise ValueError(f"it ends in '{path.suffix}'")
