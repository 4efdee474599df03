"""Between ratings and the model scale: formulas, inverses, slopes, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch.distributions import Laplace, Normal

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.transforms import Affine, Log1p, transform_of
from pyro_pmf.errors import PMFError, RatingsError

PLAYS = np.array([1.0, 0.0, 12.0, 352_698.0, 40.0, 7.0, 300.0, 2.0])
FRAME = pd.DataFrame(
    {"user": [1, 1, 1, 2, 2, 3, 3, 4], "item": [*"abcabcba"][:8], "rating": PLAYS}
)
NAMES = ("unit", "standardize", "log1p", "count")


def ratings(transform, **options):
    return Ratings.from_frame(FRAME, transform=transform, dtype=torch.float64, **options)


def plays_of(made):
    """The ratings in the order that `Ratings` keeps them in."""
    return made.to_frame()["rating"].to_numpy()


def test_values_by_hand():
    plays = plays_of(ratings("count"))
    logs = np.log1p(plays)
    expected = {
        "unit": plays / 352_698,
        "standardize": (plays - plays.mean()) / plays.std(),
        "log1p": (logs - logs.mean()) / logs.std(),
        "count": plays,
    }
    for name in NAMES:
        np.testing.assert_allclose(ratings(name).value, expected[name], err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_ratings_come_back_as_given(name):
    made = ratings(name)
    assert sorted(made.rating) == sorted(PLAYS)
    assert made.scale == (0.0, 352_698.0)
    np.testing.assert_allclose(made.to_rating(made.value), made.rating, atol=1e-6)
    np.testing.assert_allclose(made.to_value(made.rating), made.value)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_arrays_and_tensors(name):
    transform = ratings(name).transform
    array = np.array([0.0, 3.0, 50.0])
    tensor = transform.to_value(torch.tensor(array))
    np.testing.assert_allclose(tensor, transform.to_value(array))
    np.testing.assert_allclose(transform.to_value(3.0), transform.to_value(array)[1])
    np.testing.assert_allclose(transform.to_rating(tensor), array, atol=1e-9)
    np.testing.assert_allclose(transform.to_rating(float(tensor[2])), 50.0)


@pytest.mark.parametrize("name", NAMES)
def test_log_slope_is_that_of_the_derivative(name):
    transform = ratings(name).transform
    rating = torch.tensor([0.0, 0.5, 3.0, 1e5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(transform.to_value(rating).sum(), rating)
    log_slope = torch.as_tensor(transform.log_slope(rating.detach()))
    np.testing.assert_allclose(log_slope.expand(4), slope.log())


def test_only_the_unit_scale_has_bounds():
    assert ratings("unit").transform.bounds == (0.0, 352_698.0)
    assert all(ratings(name).transform.bounds is None for name in NAMES[1:])


def test_scale_is_for_show_where_there_are_no_bounds():
    given = ratings("standardize", scale=(0, 1e6))
    assert given.scale == (0.0, 1e6)
    torch.testing.assert_close(given.value, ratings("standardize").value)


@pytest.mark.parametrize("name", NAMES)
def test_parts_keep_the_transform_of_the_whole(name):
    whole = ratings(name)
    train, test = whole.split(0.4, seed=1)
    assert train.transform == test.transform == whole.transform
    np.testing.assert_allclose(train.value, whole.transform.to_value(train.rating))
    assert test.aligned_to(train).transform == whole.transform
    assert whole.to("cpu", torch.float32).transform == whole.transform


def test_aligned_ratings_take_the_transform_of_training():
    train, other = ratings("log1p"), Ratings.from_frame(FRAME, scale=(0, 1e6))
    torch.testing.assert_close(other.aligned_to(train).value, train.value)
    beyond = Ratings.from_frame(FRAME.assign(rating=FRAME["rating"] * 2))
    assert len(beyond.aligned_to(train)) == len(FRAME)  # no bounds to lie outside of
    with pytest.raises(RatingsError, match="1 of 8"):
        Ratings.from_frame(FRAME.replace({"rating": {7.0: -7.0}})).aligned_to(train)


@pytest.mark.parametrize(("name", "value"), [("log1p", -3.0), ("count", -3.0), ("count", 2.5)])
def test_what_is_no_count_is_shown(name, value):
    frame = FRAME.copy()
    frame.loc[5, "rating"] = value
    with pytest.raises(RatingsError, match="1 of 8 rows") as caught:
        Ratings.from_frame(frame, transform=name)
    assert "3    c" in str(caught.value)
    Ratings.from_frame(frame, transform="standardize")


def test_counts_are_looked_at_after_duplicates():
    frame = pd.concat([FRAME.assign(rating=FRAME["rating"] - 0.5), FRAME])
    kept = Ratings.from_frame(frame, on_duplicate="last", transform="count")
    assert sorted(kept.rating) == sorted(PLAYS)
    with pytest.raises(RatingsError, match="not a count"):
        Ratings.from_frame(frame, on_duplicate="mean", transform="count")


def test_fractions_have_logs():
    made = Ratings.from_frame(FRAME.assign(rating=PLAYS / 3), transform="log1p")
    assert made.value.isfinite().all()


def test_unknown_names_and_pairs_without_ratings():
    with pytest.raises(RatingsError, match="'log' is unknown"):
        Ratings.from_frame(FRAME, transform="log")
    with pytest.raises(RatingsError, match="needs ratings"):
        Ratings.from_frame(FRAME, rating=None, scale=(0, 5), transform="log1p")


def test_repr_names_it():
    assert "Log1p(" in repr(ratings("log1p"))
    assert "Affine" not in repr(ratings("unit"))


class TestMomentsOfLog1p:
    TRANSFORM = Log1p(2.0, 1.5)

    def test_against_scipy(self):
        part = Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.2]))
        exact = scipy.stats.lognorm(1.5 * np.array([0.5, 0.2]), -1, np.exp([2.45, 0.5]))
        np.testing.assert_allclose(self.TRANSFORM.mean(part), exact.mean(), rtol=1e-6)
        np.testing.assert_allclose(self.TRANSFORM.variance(part), exact.var(), rtol=1e-6)

    def test_other_families_may_have_none(self):
        with pytest.raises(PMFError, match="Laplace"):
            self.TRANSFORM.mean(Laplace(torch.zeros(1), torch.ones(1)))

    def test_below_all_counts(self):
        low = self.TRANSFORM.to_value(torch.tensor([-1.0, -5.0]))
        assert (low == -torch.inf).all()
        assert self.TRANSFORM.to_value(-5.0) == -np.inf


def test_the_unit_scale_is_affine():
    assert transform_of("unit", None, (0.5, 5.0)) == Affine(0.5, 4.5, (0.5, 5.0))
    np.testing.assert_array_equal(
        Affine.of_scale(0.5, 5.0).allows(np.array([0.4, 0.5, 5.0, 5.1])),
        [False, True, True, False],
    )
