"""`likelihood="auto"`, and the spacing of levels: chosen for tables made by hand."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from pyro_pmf import (
    PMF,
    VI,
    BernoulliLogit,
    Gibbs,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    PMFError,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import simulate

AUTO = PMF(1, likelihood="auto")


def table(rating, **options):
    n = len(rating)
    frame = pd.DataFrame({"user": np.arange(n) // 10, "item": np.arange(n) % 10, "rating": rating})
    return Ratings.from_frame(frame, **options)


RNG = np.random.default_rng(0)
STARS = RNG.integers(1, 6, 100)
COUNTS = np.floor(RNG.exponential(50, 100))
TABLES = {
    "yes and no": (table(STARS % 2), BernoulliLogit()),
    "one and five": (table(np.where(STARS > 2, 5, 1)), BernoulliLogit()),
    "one and five of five": (table(np.where(STARS > 2, 5, 1), scale=(1, 5)), BernoulliLogit()),
    "four and five of five": (table(np.where(STARS > 2, 5, 4), scale=(1, 5)), OrderedLogit(5)),
    "stars": (table(STARS), OrderedLogit(5)),
    "half stars": (table(STARS / 2, scale=(0.5, 5)), OrderedLogit(10)),
    "three of seven levels": (table(RNG.choice([0, 1, 6], 100)), OrderedLogit(7)),
    "two ratings": (table([2.0, 3.5]), BernoulliLogit()),
    "counts": (table(COUNTS), NegativeBinomialLog(10.0 * COUNTS.max())),
    "few counts": (table(RNG.poisson(1.0, 100)), OrderedLogit),
    "bounded counts": (table(COUNTS, scale=(0, COUNTS.max())), NormalSigmoid),
    "symmetric whole numbers": (table(RNG.integers(0, 90, 100)), NormalIdentity),
    "numbers": (table(RNG.normal(size=100)), NormalIdentity(rounding=0.0)),
    "skewed numbers": (table(RNG.lognormal(0, 2, 100)), NormalIdentity(rounding=0.0)),
    "bounded numbers": (table(RNG.random(100), scale=(0, 1)), NormalSigmoid(rounding=0.0)),
    "a corner of a scale": (table(RNG.random(100), scale=(0, 1e3)), NormalIdentity(rounding=0.0)),
    "log1p": (table(STARS, transform="log1p"), NormalIdentity),
    "standardize": (table(STARS, transform="standardize"), NormalIdentity),
    "count": (table(STARS, transform="count"), NegativeBinomialLog(50.0)),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_likelihood_suits_the_table_and_runs_on_its_ratings(name):
    ratings, wanted = TABLES[name]
    model, suited = AUTO.for_ratings(ratings)
    if isinstance(wanted, type):
        assert isinstance(model.likelihood, wanted)
    else:
        assert model.likelihood == wanted
    assert np.array_equal(suited.rating, ratings.rating)
    assert model.likelihood.fault(suited.value) is None
    assert bool(suited.transform.bounds) or not model.likelihood.has_bounds
    model(suited)
    if not ratings.transform.bounds:
        assert suited is ratings  # an explicit transform stays


def test_splits_know_the_levels_of_the_whole_table():
    """The training side may lack a level, or the scale's ends, which the test side has."""
    ratings = table(np.where(np.arange(100) == 7, 2, np.where(STARS > 2, 5, 1)), scale=(1, 5))
    test = np.zeros(100, dtype=bool)
    test[7] = True
    train = ratings._take(~test)
    assert set(train.rating) == {1, 5}
    assert AUTO.for_ratings(train)[0].likelihood == OrderedLogit(5)
    numbers = table(RNG.normal(size=100))
    assert AUTO.for_ratings(numbers.split(0.5)[0])[1].transform.bounds is None


def test_the_prior_of_mu_covers_the_mean_count_unless_it_is_given():
    ratings = table(COUNTS)
    mu = AUTO.for_ratings(ratings)[0].priors.mu
    assert mu.loc == pytest.approx(np.log(COUNTS.mean()), abs=0.01)
    assert mu == Normal(mu.loc, 2.0)
    own = Priors(mu=Normal(1.0, 3.0))
    assert replace(AUTO, priors=own).for_ratings(ratings)[0].priors == own


def test_a_model_without_its_choice_does_not_run_and_says_what_does():
    ratings = table(STARS)
    with pytest.raises(PMFError, match=r"model\.for_ratings\(ratings\)"):
        AUTO(ratings)
    with pytest.raises(PMFError, match="does not run by itself"):
        simulate(AUTO, n_users=3, n_items=3, n_ratings=5)
    model, ratings = AUTO.for_ratings(ratings)
    model(ratings)
    assert "likelihood='auto'" in repr(AUTO)
    assert "likelihood=OrderedLogit(n_levels=5)" in repr(model)


@pytest.mark.parametrize("method", [VI(max_steps=30), Gibbs(5, 5, thin=1)], ids=["vi", "gibbs"])
def test_a_fit_makes_the_choice_and_says_it(method):
    ratings = table(STARS)
    auto = PMF(0, likelihood="auto", noise="shared")
    posterior = fit(auto, ratings, method, progress=False)
    assert "OrderedLogit(n_levels=5)" in repr(posterior)
    same = replace(auto, likelihood=OrderedLogit(5))
    assert posterior.model == same
    truth = fit(same, ratings, method, progress=False).predict(ratings)
    assert np.allclose(posterior.predict(ratings)["mean"], truth["mean"])


def test_auto_is_the_only_word_for_a_likelihood():
    with pytest.raises(PMFError, match='likelihood must be "auto" or a Likelihood'):
        PMF(likelihood="normal")


@pytest.mark.parametrize("family", [NormalSigmoid, NormalIdentity])
def test_rounding_adds_its_variance(family):
    score, sigma = torch.tensor([0.3, -1.0]), torch.tensor([0.1, 0.2])
    mean = torch.sigmoid(score) if family is NormalSigmoid else score
    found = family(rounding=0.25)(score, sigma).log_prob(torch.tensor(0.4))
    sd = np.sqrt(sigma.numpy() ** 2 + 0.25**2 / 12)
    assert np.allclose(found, stats.norm.logpdf(0.4, mean.numpy(), sd), atol=1e-6)


@pytest.mark.parametrize("family", [NormalSigmoid, NormalIdentity])
def test_without_rounding_the_scale_is_the_same_tensor(family):
    sigma = torch.tensor([0.1, 0.2])
    for rounding in (None, 0.0):
        assert family(rounding)(torch.zeros(2), sigma).scale is sigma


@pytest.mark.parametrize("rounding", [-0.1, float("nan"), float("inf"), "0.1"])
def test_a_spacing_is_a_number_of_at_least_zero(rounding):
    with pytest.raises(PMFError, match="spacing of recorded ratings"):
        NormalSigmoid(rounding=rounding)


def test_the_spacing_is_found_on_the_model_scale_and_a_given_one_stays():
    stars = table(STARS, scale=(1, 5))
    assert PMF().for_ratings(stars)[0].likelihood == NormalSigmoid(rounding=0.25)
    assert PMF(likelihood=NormalSigmoid(0.0)).for_ratings(stars)[0].likelihood.rounding == 0.0
    standardized = table(STARS, transform="standardize")
    found = PMF(likelihood=NormalIdentity()).for_ratings(standardized)[0].likelihood
    assert found.rounding == pytest.approx(1 / STARS.std(), rel=1e-5)
    logs = table(STARS, transform="log1p")
    found = PMF(likelihood=NormalIdentity()).for_ratings(logs)[0].likelihood
    assert 0.2 < found.rounding < 1.5  # levels 0.7 to 1.8 in logs, 0.39 of a sd apart on average


def test_sigma_of_a_point_estimate_and_rounding_are_the_spread_together():
    rounded = NormalSigmoid(rounding=0.25)
    total = rounded(torch.zeros(1), torch.tensor([rounded.sigma_for(0.2)])).stddev
    assert float(total) == pytest.approx(0.2)
    assert rounded.sigma_for(0.05) > 0  # rounding explains it all
    assert OrderedLogit(3).sigma_for(0.2) == 0.2


def test_pyro_runs_a_copy_of_the_model_as_well():
    """Autoguides deepcopy and pickle models: the likelihood is a descriptor, not a plain field."""
    for model in (AUTO, PMF(2, likelihood=OrderedLogit(3))):
        assert copy.deepcopy(model) == pickle.loads(pickle.dumps(model)) == model
        assert hash(copy.copy(model)) == hash(model)
