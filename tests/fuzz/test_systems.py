"""The part of `make fuzz` that every run of the tests repeats: a few seeded systems, none of them wrong, none lost."""

from . import systems

SECONDS = 25.0  # of a machine that is busy with other things fewer systems are enough


def test_random_systems_have_no_lies_no_crashes_and_few_misses():
    table, bad = systems.fuzz(700, 20261130, seconds=SECONDS)
    counts = table[("all", "")]
    assert counts["fine"] >= 20
    assert not counts["lie"] + counts["crash"], bad[0]
    assert counts["missed"] <= 0.005 * (counts["fine"] + counts["missed"]) + 1, bad[0]


def test_the_judge_finds_a_wrong_answer():
    name, given = systems.arguments(systems.a_case(1, 5) | {"builder": "coefficients"})
    matrix, outside = systems.assembled(name, given)
    from krylearn.pde import Poisson

    csr = getattr(Poisson, name)(**given).matrix().tocoo()
    x = systems.np.where(outside, 0, systems.np.arange(len(outside))).astype(systems.LONG)
    y, size = systems.product(matrix, x)
    z, _ = systems.product((csr.row, csr.col, csr.data.astype(systems.LONG)), x)
    assert (abs(y - z) <= 1e-6 * size).all()
    assert systems.norm(y) > 0
