"""Rows read into registers are the rows NumPy sees: every width, every type of number, wrapped ends, blocks of two."""

import numpy as np
import pytest
from krylearn.solvers.kernels.cpu.compile import strip_kernel
from krylearn.solvers.kernels.cpu.lane_rows import (
    add_block_sums,
    count_lanes,
    from_lane,
    full_register,
    one_lane,
    read,
    read_blocks,
    read_next,
    read_previous,
    sum_lanes,
    swap_partners,
    two_lanes,
)  # fmt: skip
from krylearn.solvers.kernels.cpu.lanes import store


def kernel_for(shape):
    """Compile the functions for one width."""

    @strip_kernel
    def run(k, lane, x, c, y, sums, out):
        like = shape(c)
        count = count_lanes(like)
        v = read(like, x, (0, 1, k))
        store(out, (0, 0), v)
        store(out, (1, 0), read_previous(like, x, 0, 1, k))
        store(out, (2, 0), read_next(like, x, 0, 1, k))
        store(out, (3, 0), swap_partners(v, 1))
        store(out, (4, 0), swap_partners(v, 0))
        store(out, (5, 0), read_blocks(like, c, (0, 1), 0))
        store(out, (6, 0), read_blocks(like, c, (0, 1), 1))
        store(out, (7, 0), from_lane(lane, v, like))
        add_block_sums(y, 1, v)
        sums[0] = sum_lanes(v)
        return count

    return run


KERNELS = {"wide": kernel_for(full_register), "double": kernel_for(two_lanes), "single": kernel_for(one_lane)}


@pytest.mark.parametrize("source", [np.float32, np.float64, np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("place", ["first", "inside", "last"])
def test_rows_are_those_of_numpy(source, kind, shape, place):
    rng = np.random.default_rng(41_003)
    count = {"wide": 0, "double": 2, "single": 1}[shape] or KERNELS[shape](
        0,
        0,
        np.zeros((2, 2, 64), source),
        np.zeros((1, 64), kind),
        np.zeros(64, kind),
        np.zeros(1),
        np.zeros((8, 64), kind),
    )
    n = 2 * count + 3
    k, lane = {"first": 0, "inside": 2, "last": n - count}[place], count // 2
    x, c, y = (
        rng.integers(1, 200, (2, 2, n)).astype(source),
        rng.standard_normal((1, 40)).astype(kind),
        np.ones(40, kind),
    )
    sums, out = np.zeros(1, kind), np.full((8, count + 1), -7, kind)
    assert KERNELS[shape](k, lane, x, c, y, sums, out) == count
    row = x[0, 1].astype(kind)
    v, lanes = row[k : k + count], np.arange(count)
    swapped = {0: np.zeros(count, kind), 1: np.zeros(count, kind)}
    for odd in (0, 1):
        for l in lanes:
            other = l ^ 1 if odd else l - 1 + 2 * (l % 2)
            swapped[odd][l] = v[other] if 0 <= other < count else 0
    expected = [
        v, np.roll(row, 1)[k : k + count], np.roll(row, -1)[k : k + count], swapped[1], swapped[0],
        c[0, 1 + lanes // 2], c[0, 1 + (lanes + (count > 1)) // 2], np.where(lanes >= lane, v, 0),
    ]  # fmt: skip
    np.testing.assert_array_equal(out[:, :count], expected)
    assert (out[:, count] == -7).all()  # nothing else was written
    np.testing.assert_allclose(y[1 : 1 + max(count // 2, 1)], 1 + (v.reshape(-1, 2).sum(1) if count > 1 else v))
    assert y[0] == 1
    assert (y[1 + max(count // 2, 1) :] == 1).all()
    assert sums[0] == pytest.approx(float(v.astype(float).sum()))
