"""How ratings were recorded: found on lattices made by hand, and not where there is none."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyro_pmf.data.levels import level_gap, n_levels, spacing


@given(
    steps=st.lists(st.integers(0, 99), min_size=2, max_size=30, unique=True),
    gap=st.sampled_from([1e-6, 0.1, 1 / 3, 0.5, 1.0, 7.0, 1e6]),
    low=st.sampled_from([-3.0, 0.0, 0.5, 1e3]),
    single=st.booleans(),
)
@example(steps=[80, 81, 82], gap=0.1, low=0.0, single=True)  # as float32, 8.1 is 2e-7 too high
def test_the_largest_gap_that_holds_all_levels_is_found(steps, gap, low, single):
    if abs(low) / gap > (10 if single else 1e5):  # differences would be rounding errors
        low = 0.0
    steps = np.array(steps)
    rating = low + gap * steps
    if single:
        rating = rating.astype(np.float32).astype(float)
    common = np.gcd.reduce(np.diff(np.sort(steps)))
    found = level_gap(rating, (rating.min(), rating.max()))
    assert found == pytest.approx(common * gap, rel=1e-4)


def test_numbers_off_a_lattice_have_no_levels():
    """By chance, three numbers lie on a lattice of 101 points in less than one of 100 tables."""
    rng = np.random.default_rng(0)
    found = [level_gap(rng.random(k), (0, 1)) for k in (3, 5, 50) for _ in range(300)]
    assert sum(x is not None for x in found) <= 9
    assert level_gap(np.arange(102.0), (0, 101)) is None
    assert level_gap(np.array([2.0, 2.0]), (0, 5)) is None


@pytest.mark.parametrize(
    ("rating", "scale", "n"),
    [
        ([1, 2, 5], (1, 5), 5),
        ([0.5, 1.0, 4.5], (0.5, 5), 10),
        ([1, 5], (1, 5), 2),
        ([0, 3, 6], (0, 18), 7),
        ([1, 2, 3], (0.5, 3), None),
    ],
)
def test_levels_are_counted_from_the_lowest_to_the_highest_possible_rating(rating, scale, n):
    rating = np.array(rating, dtype=float)
    assert n_levels(level_gap(rating, scale), rating, scale) == n


def test_the_spacing_of_levels_is_their_gap():
    rating = np.random.default_rng(0).integers(1, 6, 500).astype(float)
    assert spacing(rating, 1.0) == 1.0


def test_rounding_explains_a_quarter_of_the_variance_at_most():
    rating = np.repeat([1.0, 5.0], [5, 95])
    assert spacing(rating, 4.0) ** 2 / 12 == pytest.approx(rating.var() / 4)


def test_the_spacing_of_rounded_numbers_is_about_the_unit_that_they_are_rounded_to():
    rating = np.random.default_rng(0).normal(size=5000).round(2)
    assert spacing(rating, None) == pytest.approx(0.01, rel=0.1)
    assert spacing(rating.round(1), None) == pytest.approx(0.1, rel=0.1)


def test_a_heap_of_equal_ratings_counts_as_coarse_rounding():
    """Half zeros: a quarter of pairs are equal, far more than a lattice of 100 levels explains."""
    rng = np.random.default_rng(0)
    rating = np.where(rng.random(5000) < 0.5, 0, rng.integers(1, 101, 5000)).astype(float)
    assert 0.2 < spacing(rating, 1.0) / np.sqrt(12) / rating.std() < 0.3


def test_numbers_that_never_repeat_are_exact_and_others_are_not():
    rating = np.random.default_rng(0).normal(size=50)
    assert spacing(rating, None) == 0.0
    half_zeros = np.append(rating, np.zeros(50))
    assert spacing(half_zeros, None) >= 0.01 * half_zeros.std()
