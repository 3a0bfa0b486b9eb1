import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.optim import fit_sharpness
from krylearn.optim.batch_noise.random_matrix import wigner_edge

from tests.optim.batch_noise.test_random_matrix import P, wigner_sample, wishart_sample

SIZES = (4, 8, 16, 32, 64, 128, 256)


@given(top=st.floats(0.1, 100), scale=st.floats(0.05, 30))
@settings(max_examples=8, deadline=None)
def test_the_law_that_made_the_data_is_found(top, scale):
    noise = scale * top**2 * 32  # the spike drowns below B = 32·scale
    additive = {b: wigner_edge(top, math.sqrt(noise / b)).value for b in SIZES}
    law = fit_sharpness(additive)
    assert law.residual < 1e-3
    assert all(law(b) == pytest.approx(value, rel=5e-3) for b, value in additive.items())
    trace = scale * top * 32
    law = fit_sharpness({b: top + trace / b for b in SIZES})
    assert law.model == "Gauss-Newton" or law.other < 1e-2
    assert all(law(b) == pytest.approx(top + trace / b, rel=1e-2) for b in SIZES)


def test_sampled_matrices_are_told_apart():
    def wigner(b):
        return sum(wigner_sample(3.0, (200 / b) ** 0.5, 15013 + i)[0] for i in range(3)) / 3

    def wishart(b):
        return sum(wishart_sample(30.0, 1.0, b, 15017 + i)[0] for i in range(12)) / 12

    additive = fit_sharpness({b: wigner(b) for b in (4, 16, 64, 256)})
    assert (additive.model, additive.regime(4), additive.regime(10**5)) == ("additive", "additive bulk", "saturated")
    gauss = fit_sharpness({b: wishart(b) for b in (4, 16, 64, 256)})
    assert (gauss.model, gauss.regime(4), gauss.regime(10**5)) == ("Gauss-Newton", "Gauss-Newton bulk", "saturated")
    assert gauss.noise == pytest.approx(P, rel=0.3)  # the bulk's trace


def test_what_fits_neither_is_undecided_and_extrapolation_is_bounded():
    law = fit_sharpness({4: 1.0, 16: 9.0, 64: 1.0, 256: 9.0})
    assert law.regime(16) == "undecided"
    assert [law.inside(b) for b in (0.5, 1, 1024, 1025)] == [False, True, True, False]
    for measured in ({8: 1.0}, {8: 1.0, 9: 0.9}, {8: 1.0, 64: -1.0}):
        with pytest.raises(ValueError, match="span a factor 2"):
            fit_sharpness(measured)


@pytest.mark.parametrize("model", ["additive", "Gauss-Newton"])
def test_largest_lr_grows_as_the_reference_says(model):
    data = {b: wigner_edge(1.0, (300 / b) ** 0.5).value if model == "additive" else 1 + 300 / b for b in SIZES}
    law = fit_sharpness(data)
    assert law.model == model
    exponents = [math.log(law(b) / law(b * 1.01)) / math.log(1.01) for b in (4, 16, 64, 250)]
    if model == "additive":  # "at most 1/2", and exactly that in the bulk
        assert all(e <= 0.5 + 1e-3 for e in exponents)
        assert exponents[0] == pytest.approx(0.5, abs=1e-2)
    else:  # tends to 1 below tr/λ
        assert exponents[0] == pytest.approx(300 / 4 / (1 + 300 / 4), abs=1e-2)
    assert exponents == sorted(exponents, reverse=True) or model == "additive"
    assert isinstance(torch.tensor(law(8)).item(), float)
