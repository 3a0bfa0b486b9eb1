import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from krylearn.solvers.integrations.image_editing import poisson_blend

RNG = np.random.default_rng(34019)


def direct_blend(source, target, mask):
    """Row by row: sum over neighbours of (u_i - u_j) = sum of (s_i - s_j), u = target outside."""
    n = mask.size
    number = np.arange(n).reshape(mask.shape)
    A, b = sp.lil_array((n, n)), np.zeros(n)
    for i in np.ndindex(mask.shape):
        A[number[i], number[i]] = 1.0
        b[number[i]] = target[i]
        if not mask[i]:
            continue
        A[number[i], number[i]], b[number[i]] = 0.0, 0.0
        for step in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            j = (i[0] + step[0], i[1] + step[1])
            if 0 <= j[0] < mask.shape[0] and 0 <= j[1] < mask.shape[1]:
                A[number[i], number[i]] += 1.0
                A[number[i], number[j]] -= 1.0
                b[number[i]] += source[i] - source[j]
    return spla.spsolve(A.tocsc(), b).reshape(mask.shape)


def test_every_channel_is_the_direct_solution():
    source, target = RNG.random((2, 20, 23, 3))
    mask = RNG.random((20, 23)) < 0.6
    mask[0, :5] = True  # at the border of the image too
    blended = poisson_blend(source, target, mask, rtol=1e-10)
    for channel in range(3):
        expected = direct_blend(source[..., channel], target[..., channel], mask)
        np.testing.assert_allclose(blended[..., channel], expected, atol=1e-7)
    np.testing.assert_array_equal(blended[~mask], target[~mask])


def test_pasting_an_image_into_itself_changes_nothing():
    image = RNG.integers(0, 256, (30, 31, 3), dtype=np.uint8)
    mask = np.zeros((30, 31), dtype=bool)
    mask[4:20, 5:25] = True
    np.testing.assert_array_equal(poisson_blend(image, image, mask), image)
    np.testing.assert_array_equal(
        poisson_blend(0 * image, image, mask, mixed=True), image
    )  # all gradients are the target's


@pytest.mark.parametrize(
    ("source", "mask", "message"),
    [
        ((5, 6), np.ones((5, 5), bool), "expected images of one shape"),
        ((5, 5), np.ones((5, 5), bool), "without a False"),
    ],
)
def test_bad_input_is_named(source, mask, message):
    with pytest.raises(ValueError, match=message):
        poisson_blend(np.zeros(source), np.zeros((5, 5)), mask)
