"""`NUTS` and `Gibbs`: draws from the exact posterior, held against what is known."""

from __future__ import annotations

import math
import pickle
import weakref
from dataclasses import replace
from itertools import pairwise

import arviz
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import NUTS as PyroNUTS
from pyro.ops.stats import effective_sample_size

from benchmarks.sbc import Uniformity, scores_of
from pyro_pmf import (
    NUTS,
    PMF,
    BernoulliLogit,
    FitError,
    Fixed,
    Gibbs,
    LogNormal,
    Normal,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    Ratings,
    fit,
    load,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc import chains, diagnostics, nuts, running
from pyro_pmf.inference.mcmc.chains import plan_chains, sample_chains
from pyro_pmf.inference.mcmc.running import run_chain
from pyro_pmf.model.learned import Converged

BOTH = {"n_factors": 2, "users": "hierarchical", "items": "hierarchical"}
SD = {"sigma": 0.2, "sigma_b": 0.5, "sigma_c": 0.3}
LINEAR = PMF(
    0,
    noise="shared",
    likelihood=NormalIdentity(),
    priors=Priors(mu=Normal(0.3, 1.0), **{name: Fixed(sd) for name, sd in SD.items()}),
)


def sample(model, ratings, method=NUTS, seed=0, dtype=None, **options):
    few = {"n_draws": 20, "n_warmup": 20, "n_chains": 1}
    return fit(model, ratings, method(**few | options), seed=seed, dtype=dtype, progress=False)


each_sampler = pytest.mark.parametrize("method", [NUTS, Gibbs])


def plain_model(ratings):
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(b[ratings.user], 0.3), obs=ratings.value)


@pytest.fixture(scope="module")
def few() -> Ratings:
    """12 ratings of 5 users and 4 items."""
    return simulate(LINEAR, 5, 4, 12, seed=3)[0].to("cpu", torch.float64)


@pytest.fixture(scope="module")
def stars(few) -> Ratings:
    """The same pairs with 1 to 5 stars."""
    rating = np.array([1, 5, 3, 4, 4, 2, 5, 5, 1, 3, 4, 2])
    return Ratings.from_frame(few.to_frame().assign(rating=rating), scale=(1.0, 5.0))


@pytest.fixture(scope="module")
def sampled(few):
    return sample(LINEAR, few, n_draws=30, n_warmup=60, n_chains=2)


# --- the right distribution ---


def exact(ratings) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of mu, b and c under LINEAR."""
    n, m = ratings.n_users, ratings.n_items
    design = np.zeros((len(ratings), 1 + n + m))
    rows = np.arange(len(ratings))
    design[:, 0] = 1
    design[rows, 1 + ratings.user.numpy()] = 1
    design[rows, 1 + n + ratings.item.numpy()] = 1
    sd = np.r_[1.0, np.full(n, SD["sigma_b"]), np.full(m, SD["sigma_c"])]
    prior_mean = np.r_[0.3, np.zeros(n + m)]
    covariance = np.linalg.inv(np.diag(sd**-2) + design.T @ design / SD["sigma"] ** 2)
    value = ratings.value.numpy()
    mean = covariance @ (prior_mean / sd**2 + design.T @ value / SD["sigma"] ** 2)
    return mean, covariance


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("method", [pytest.param(NUTS, marks=pytest.mark.long), Gibbs])
def test_draws_are_of_the_exact_gaussian_posterior(few, method):
    """A false alarm has a probability of about 1e-3: 4.2 standard errors, 20 numbers."""
    size = {"n_draws": 150, "n_warmup": 60, "n_chains": 2}
    posterior = sample(LINEAR, few, method, seed=1, **size)
    mean, covariance = exact(few)
    draws = torch.cat([posterior.latents[k].reshape(300, -1) for k in ("mu", "b", "c")], 1)
    z = (draws.numpy() - mean) / np.sqrt(np.diag(covariance))
    for x in z.T:
        for moment, truth, sd in ((x, 0, 1), (x**2, 1, math.sqrt(2))):
            ess = float(arviz.ess(moment.reshape(2, -1)))
            assert abs(moment.mean() - truth) < 4.2 * sd / math.sqrt(ess)
    assert posterior.converged


LIKELIHOODS = [NormalSigmoid(), NormalIdentity(), OrderedLogit(5), BernoulliLogit()]


def ratings_for(likelihood, stars) -> Ratings:
    if not isinstance(likelihood, BernoulliLogit):
        return stars.to("cpu", torch.float64)
    liked = stars.to_frame().assign(rating=(stars.rating > 3).astype(float))
    return Ratings.from_frame(liked, scale=(0.0, 1.0), dtype=torch.float64)


# --- simulation-based calibration ---

N_RANKS, N_REPLICATIONS, THIN = 20, 40, 2
SMALL = PMF(
    1,
    noise="shared",
    priors=Priors(
        mu=Normal(0.0, 0.5),
        sigma=LogNormal(0.2, 0.3),
        sigma_b=LogNormal(0.5, 0.3),
        sigma_c=Fixed(0.4),
        sigma_U=Fixed(0.6),
        sigma_V=Fixed(0.6),
        tau=LogNormal(1.0, 0.3),
    ),
)
FALSE_ALARM = 1e-3


def is_calibrated(ranks: pd.DataFrame) -> bool:
    """Whether no quantity's ranks differ from uniform, but for a false alarm in a thousand."""
    uniformity = Uniformity(len(ranks), N_RANKS)
    smallest = min(uniformity.p_value(ranks[name].to_numpy()) for name in ranks)
    return smallest > FALSE_ALARM / ranks.shape[1]


def ranked(sites, pairs) -> dict[str, torch.Tensor]:
    """Return what is ranked: scalars and three scores, unobserved ones among them."""
    scores = scores_of(sites, pairs.user, pairs.item)
    scalars = {name: sites[name] for name in ("mu", "sigma", "sigma_b")}
    scalars["tau"] = sites["tau"][..., 0]
    return scalars | {f"score {k}": scores[..., k] for k in (0, 7, 15)}


@pytest.fixture(scope="module", params=[NUTS, Gibbs])
def ranks(request) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranks of the truth among draws, and among the same draws with half their spread."""
    right, wrong = [], []
    pairs = Pairs(*torch.from_numpy(np.array(np.divmod(np.arange(16), 4))), 4, 4)
    for seed in range(N_REPLICATIONS):
        ratings, truth = simulate(SMALL, 4, 4, 11, seed=seed)
        ratings = ratings.to("cpu", torch.float64)
        size = {"n_draws": THIN * N_RANKS, "n_warmup": 50}
        posterior = sample(SMALL, ratings, request.param, seed=seed, **size)
        true, draws = ranked(truth, pairs), ranked(posterior.latents, pairs)
        thinned = {name: x[THIN - 1 :: THIN][: N_RANKS - 1] for name, x in draws.items()}
        right.append({name: int((x < true[name]).sum()) for name, x in thinned.items()})
        narrow = {name: x.mean() + (x - x.mean()) / 2 for name, x in thinned.items()}
        wrong.append({name: int((x < true[name]).sum()) for name, x in narrow.items()})
    return pd.DataFrame(right), pd.DataFrame(wrong)


@pytest.mark.long
@pytest.mark.statistical
def test_simulation_based_calibration(ranks):
    """A false alarm has a probability of 1e-3."""
    assert is_calibrated(ranks[0])


@pytest.mark.long
@pytest.mark.statistical
def test_calibration_notices_draws_that_are_too_narrow(ranks):
    assert not is_calibrated(ranks[1])


@pytest.mark.statistical
def test_envelope_has_the_false_alarm_rate_that_it_says():
    """Of 2000 uniform sets 1% fails: from 4 to 45 of them, but for a chance of 1e-4."""
    uniformity = Uniformity(40, N_RANKS, n_simulated=20_000)
    sets = np.random.default_rng(5).integers(0, N_RANKS, (2000, 40))
    assert 4 < sum(uniformity.p_value(x) < 0.01 for x in sets) < 45
    low, high = uniformity.envelope(0.01)
    assert (low <= uniformity.at).all()
    assert (high >= uniformity.at).all()


# --- what comes back ---


def test_fields(sampled, few):
    assert sampled.n_chains == 2
    assert sampled.n_draws == 60
    assert isinstance(sampled.converged, Converged)
    assert list(sampled.steps) == ["step", "chain", "log_likelihood", "divergent", "seconds"]
    assert sampled.steps["step"].tolist() == list(range(1, 61))
    assert sampled.steps["chain"].tolist() == [0] * 30 + [1] * 30
    apart = sampled.steps["seconds"].diff().dropna()
    assert (apart > 0).all()
    assert apart[30] > 3 * apart.drop(30).median()  # the warm-up of the second chain
    assert np.isfinite(sampled.steps["log_likelihood"]).all()
    shapes = {name: tuple(value.shape) for name, value in sampled.latents.items()}
    assert shapes == {"mu": (60,), "b": (60, 5), "c": (60, 4)}
    assert all(value.dtype == torch.float64 for value in sampled.latents.values())
    assert not any(value.requires_grad for value in sampled.latents.values())
    assert "60 draws" in repr(sampled)


def test_draws_differ_between_chains_and_steps(sampled):
    assert len(sampled.latents["mu"].unique()) > 20
    assert not torch.equal(sampled.latents["mu"][:30], sampled.latents["mu"][30:])


def test_divergent_draws_are_not_convergence(few, monkeypatch):
    def reckless(**options):
        return PyroNUTS(**options, step_size=50.0, adapt_step_size=False)

    monkeypatch.setattr(nuts, "PyroNUTS", reckless)
    posterior = sample(LINEAR, few)
    assert posterior.steps["divergent"].any()
    assert not posterior.converged


@pytest.mark.slow
def test_convergence_is_judged_by_what_ratings_can_tell(few, monkeypatch):
    judged = []

    def listening(found, *_):
        judged.append({kind: set(found[kind]) for kind in found.columns.unique(0)})
        return Converged(False, False)

    monkeypatch.setattr(diagnostics, "have_mixed", listening)
    sample(PMF(1, noise="shared"), few, n_draws=4, n_warmup=2)
    sample(plain_model, few, n_draws=4, n_warmup=2)
    assert judged[0]["parameter"] >= {"sigma_U sigma_V tau", "sigma_b", "mean score"}
    assert not judged[0]["parameter"] & {"sigma_U", "sigma_V", "tau", "mu"}
    assert judged[0].keys() == {"score", "effect", "parameter"}
    assert judged[1].keys() == {"score"}


@pytest.mark.slow
@each_sampler
def test_a_seed_decides_everything(few, method):
    first, again, other = (sample(LINEAR, few, method, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(first.latents[k], again.latents[k]) for k in first.latents)
    assert not torch.equal(first.latents["mu"], other.latents["mu"])


@pytest.mark.slow
@each_sampler
def test_random_state_and_parameters_are_left_alone(few, method):
    pyro.param("mine", torch.tensor(1.0))
    before = pyro.util.get_rng_state()
    sample(LINEAR, few, method, n_draws=4, n_warmup=2)
    after = pyro.util.get_rng_state()
    assert torch.equal(after["torch"], before["torch"])
    assert after["random"] == before["random"]
    assert (after["numpy"][1] == before["numpy"][1]).all()
    assert set(pyro.get_param_store()) == {"mine"}


def with_a_parameter(ratings):
    sd = pyro.param("sd", torch.tensor(0.3, dtype=ratings.dtype))
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(b[ratings.user], sd), obs=ratings.value)


@pytest.mark.slow
def test_parameters_of_a_model_are_not_left_behind(few):
    sample(with_a_parameter, few, n_draws=4, n_warmup=2)
    assert not set(pyro.get_param_store())


@pytest.mark.slow
def test_parameters_of_the_caller_are_not_those_of_a_fit(few):
    """The model has a parameter of the same name as one that is there."""
    expected = sample(with_a_parameter, few, n_draws=4, n_warmup=2).latents
    pyro.clear_param_store()
    pyro.param("sd", torch.tensor(30.0, dtype=torch.float64))
    found = sample(with_a_parameter, few, n_draws=4, n_warmup=2).latents
    assert pyro.param("sd") == 30
    assert torch.equal(found["b"], expected["b"])


@pytest.mark.parametrize(
    "fitted",
    [
        lambda few: fit(LINEAR, few, "hmc", progress=False),
        lambda few: sample(plain_model, few, Gibbs),
        lambda few: sample(LINEAR, few, Gibbs, n_draws=3),
        lambda few: sample(LINEAR, few, n_draws=3),
        lambda few: sample(LINEAR, few, n_draws=-1),
        lambda few: sample(LINEAR, few, n_draws=2.5),
        lambda few: sample(LINEAR, few, n_warmup=0),
        lambda few: sample(LINEAR, few, n_chains=0),
        lambda few: sample(LINEAR, few, dtype=torch.int64),
    ],
)
def test_bad_arguments_are_errors(few, fitted):
    with pytest.raises(FitError):
        fitted(few)


def test_ratings_that_cannot_be_are_errors(few):
    with pytest.raises(FitError, match="OrderedLogit"):
        sample(PMF(0, likelihood=OrderedLogit(3)), few)


@pytest.mark.slow
@each_sampler
@pytest.mark.parametrize("likelihood", [NormalSigmoid(), NormalIdentity()])
def test_levels_with_noise_of_each_row_have_a_bound(stars, likelihood, method):
    """User 4 gave one level only, of which noise cannot go to zero: rounding has a variance."""
    model = PMF(1, likelihood=likelihood)
    posterior = sample(model, stars, method, n_draws=4, n_warmup=10)
    assert all(value.isfinite().all() for value in posterior.latents.values())
    assert np.isfinite(posterior.steps["log_likelihood"]).all()


def test_discrete_latents_are_refused(few):
    def model(ratings):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("ratings", len(ratings)):
            return pyro.sample("rating", dist.Normal(k, 0.3), obs=ratings.value)

    with pytest.raises(FitError, match="'k' is discrete"):
        sample(model, few)


@pytest.mark.slow
def test_measurements_may_have_noise_of_their_own(few):
    posterior = sample(replace(LINEAR, noise="user"), few, n_draws=4, n_warmup=5)
    assert posterior.latents["s"].isfinite().all()


@each_sampler
def test_a_model_without_rating_is_an_error(few, method):
    with pytest.raises(FitError, match="rating"):
        sample(lambda _: pyro.sample("mu", dist.Normal(0.0, 1.0)), few, method)


def test_a_model_that_gibbs_does_not_know_is_for_nuts(few):
    with pytest.raises(FitError, match="method='nuts'"):
        sample(plain_model, few, Gibbs)


# --- chains as tasks ---


@pytest.fixture(scope="module", params=[NUTS, Gibbs])
def planned(request, few):
    """A function that plans this many chains of a model with all its terms."""
    model = PMF(1, users="hierarchical", noise="shared")
    size = {"n_draws": 4, "n_warmup": 5, "thin": 1}

    def plan(n_chains, seed=0, sample=plan_chains):
        method = request.param(**size, n_chains=n_chains)
        run = Conditions(seed, torch.device("cpu"), None, progress=False)
        return sample(model, few, method, run)

    return plan


@pytest.fixture(scope="module")
def drawn(planned):
    """Two chains, run one after the other."""
    return [run_chain(task) for task in planned(2)]


def assert_same_draws(chain, other):
    assert chain.latents.keys() == other.latents.keys()
    assert all(torch.equal(chain.latents[name], other.latents[name]) for name in chain.latents)
    ours, theirs = (pd.DataFrame(x.steps).drop(columns="seconds") for x in (chain, other))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.slow
def test_a_task_survives_pickle(planned, drawn):
    """To the last bit of what it draws."""
    for task, chain in zip(planned(2), drawn, strict=True):
        restored = pickle.loads(pickle.dumps(task))
        assert (restored.number, restored.seed) == (task.number, task.seed)
        assert_same_draws(run_chain(restored), chain)


@pytest.mark.slow
def test_a_chain_does_not_depend_on_those_before_it(planned, drawn):
    first, second = planned(2)
    assert_same_draws(run_chain(second), drawn[1])
    assert_same_draws(run_chain(first), drawn[0])
    assert not torch.equal(drawn[0].latents["mu"], drawn[1].latents["mu"])


@pytest.mark.slow
def test_more_chains_do_not_change_the_first_ones(planned, drawn):
    [only] = planned(1)
    assert_same_draws(run_chain(only), drawn[0])
    for one, other in zip(planned(2), planned(3)[:2], strict=True):
        assert (one.number, one.seed) == (other.number, other.seed)


@pytest.mark.slow
def test_what_is_sampled_are_the_planned_chains_one_after_the_other(planned, drawn):
    learned = planned(2, sample=sample_chains)
    for name, draws in learned.latents.items():
        assert torch.equal(draws, torch.cat([chain.latents[name] for chain in drawn]))
    steps = pd.DataFrame([row for chain in drawn for row in chain.steps])
    steps.insert(0, "step", range(1, 9))
    pd.testing.assert_frame_equal(
        learned.steps.drop(columns="seconds"), steps.drop(columns="seconds"), check_exact=True
    )
    assert (learned.n_draws, learned.n_chains) == (8, 2)


@pytest.mark.slow
def test_no_two_chains_of_any_seeds_have_one_stream(planned):
    seeds = [task.seed for seed in range(3) for task in planned(3, seed)]
    assert len(set(seeds)) == 9


@pytest.mark.slow
def test_a_chain_counts_its_steps_and_leaves_the_random_state_alone(planned):
    [task] = planned(1)
    counted, kept, before = [], [], torch.get_rng_state()

    def on_step(chain):
        counted.append(chain.n_steps)
        kept.append(len(chain.at_present().steps))

    run_chain(task, on_step)
    assert torch.equal(torch.get_rng_state(), before)
    assert counted == list(range(1, 5 + 4 + 1))
    assert kept == [1] * 5 + [1, 2, 3, 4]  # the present state alone during the warm-up


def test_thinned_draws_are_every_kth_of_a_longer_chain(few):
    """The sampler does not know which of its states are kept."""
    every, third = (
        sample(LINEAR, few, Gibbs, n_draws=n, n_warmup=5, thin=thin)
        for n, thin in ((12, 1), (4, 3))
    )
    assert third.n_draws == 4
    for name, draws in third.latents.items():
        assert torch.equal(draws, every.latents[name][2::3])


@each_sampler
def test_a_callback_sees_each_step_of_each_chain(few, method):
    """Without an ELBO; with the draws so far, which predict."""
    seen, rmse = [], []

    def callback(progress):
        seen.append(progress)
        rmse.append(progress.posterior().evaluate(few)["rmse"])

    size = {"n_draws": 4, "n_warmup": 2, "n_chains": 2, "thin": 1}
    watched = fit(LINEAR, few, method(**size), progress=False, callback=callback)
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert {progress.elbo for progress in seen} == {None}
    assert all(a.seconds < b.seconds for a, b in pairwise(seen))
    assert np.isfinite(rmse).all()
    plain = fit(LINEAR, few, method(**size), progress=False)
    assert all(torch.equal(plain.latents[k], watched.latents[k]) for k in plain.latents)


def test_a_chain_takes_the_sweeps_that_its_table_needs(few):
    steps = []
    method = Gibbs(n_draws=4, n_chains=1)
    fit(LINEAR, few, method, progress=False, callback=lambda p: steps.append(p.step))
    assert steps[-1] == method.warmup_of(12, 5) + 4 * method.thin_of(12) == 125 + 16


@pytest.mark.slow
def test_no_more_draws_are_held_than_memory_was_asked_for(few, monkeypatch):
    """Beside the draws of all chains, those of one chain."""
    alive, made = [], []

    def watched(task, on_step, begun):
        chain = run_chain(task, on_step, begun)
        made.append(weakref.ref(chain))
        return chain

    def counted(task):
        alive.append(sum(ref() is not None for ref in made))
        return make_kernel(task)

    make_kernel = running._kernel
    monkeypatch.setattr(chains, "run_chain", watched)
    monkeypatch.setattr(running, "_kernel", counted)
    sample(LINEAR, few, n_draws=4, n_warmup=1, n_chains=3)
    assert alive == [0, 0, 0]


# --- both samplers beside each other ---


def films_of(n_factors: int) -> tuple[Ratings, Ratings]:
    """Ratings with strong factors, of 5 levels, and as many that are held out."""
    fixed = {"sigma_U": Fixed(1.0), "sigma_V": Fixed(1.0), "sigma": Fixed(0.12)}
    model = PMF(n_factors, noise="shared", priors=Priors(**fixed))
    ratings, _ = simulate(model, 40, 30, 1000, seed=0)
    frame = ratings.to_frame()
    level = (frame["rating"] * 5).round().clip(1, 5)
    return Ratings.from_frame(frame.assign(rating=level), scale=(1.0, 5.0)).split(0.3, seed=0)


def error_of_mean(draws):
    """Monte Carlo variance of the mean over two chains, by the effective sample size."""
    by_chain = draws.unflatten(0, (2, -1))
    return draws.var(0) / effective_sample_size(by_chain, chain_dim=0, sample_dim=1)


@pytest.mark.long
@pytest.mark.statistical
def test_gibbs_and_nuts_draw_from_one_posterior():
    """Scores of 700 pairs: means within Monte Carlo error, standard deviations alike.

    The scores go together, so that the mean square of their z-scores may be as far from one as
    the square of one: above 3.3^2 in one run of a thousand.
    """
    _, train = films_of(1)
    model = PMF(1, likelihood=OrderedLogit(5), noise="shared")
    gibbs = sample(model, train, Gibbs, n_warmup=100, n_draws=300, n_chains=2)
    by_nuts = sample(model, train, n_warmup=100, n_draws=150, n_chains=2)
    ours, theirs = (scores_of(x.latents, train.user, train.item) for x in (gibbs, by_nuts))
    z = (ours.mean(0) - theirs.mean(0)) / (error_of_mean(ours) + error_of_mean(theirs)).sqrt()
    assert z.square().mean().sqrt() < 3.3
    assert (ours.std(0) / theirs.std(0)).median() == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_gibbs_finds_factors_and_predicts_better_than_biases():
    train, test = films_of(2)
    model = PMF(2, likelihood=OrderedLogit(5))
    drawn = fit(model, train, Gibbs(n_draws=40, n_warmup=30, thin=1), progress=False)
    assert drawn.n_draws == 80
    assert drawn.latents["U"].dtype == train.dtype
    biases = fit(PMF(0, likelihood=OrderedLogit(5)), train, progress=False)
    assert drawn.evaluate(test)["log_loss"] < biases.evaluate(test)["log_loss"] - 0.04


# --- what can be asked of it ---


def test_save_and_load(sampled, few, tmp_path):
    sampled.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.n_chains == 2
    assert again.n_draws == 60
    assert again.converged == sampled.converged
    assert all(torch.equal(again.latents[k], sampled.latents[k]) for k in sampled.latents)
    pd.testing.assert_frame_equal(again.steps, sampled.steps)
    pd.testing.assert_frame_equal(again.predict(few), sampled.predict(few))


def test_predictions_are_averages_over_draws(sampled, few):
    predicted = sampled.predict(few)
    score = scores_of(sampled.latents, few.user, few.item)
    mean = few.to_rating(score.mean(0).numpy())
    sd = few.to_rating((score.var(0, correction=0) + SD["sigma"] ** 2).sqrt().numpy())
    np.testing.assert_allclose(predicted["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(predicted["sd"], sd, rtol=1e-6)


def test_uses_of_a_posterior(sampled, few):
    assert sampled.evaluate(few)["rmse"] < 0.5
    assert sampled.sample(few, 7).shape == (7, len(few))
    assert len(sampled.recommend([few.user_ids[0]], n=2, exclude_seen=False)) == 2
    unknown = pd.DataFrame({"user": [0, 77], "item": [88, 1]})
    assert np.isfinite(sampled.predict(unknown)["mean"]).all()


@pytest.mark.slow
def test_a_pyro_model_of_ones_own(few):
    posterior = sample(plain_model, few, n_draws=100, n_warmup=50)
    n = few.user_counts.double()
    sums = torch.zeros(few.n_users, dtype=torch.float64).index_add_(0, few.user, few.value)
    mean, sd = sums / (n + 0.3**2), 1 / (1 + n / 0.3**2).sqrt()
    assert posterior.latents["b"].shape == (100, few.n_users)
    assert ((posterior.latents["b"].mean(0) - mean).abs() < sd).all()
    assert len(posterior.predict(few)) == len(few)


@pytest.mark.slow
@each_sampler
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda x: type(x).__name__)
def test_every_likelihood_samples(stars, likelihood, method):
    ratings = ratings_for(likelihood, stars)
    model = PMF(1, users="hierarchical", noise="shared", likelihood=likelihood)
    posterior = sample(model, ratings, method, n_draws=4, n_warmup=2)
    assert all(value.isfinite().all() for value in posterior.latents.values())
    assert posterior.latents["U"].shape == (4, ratings.n_users, 1)
    assert posterior.predict(ratings)["mean"].between(*ratings.scale).all() or isinstance(
        likelihood, NormalIdentity
    )


@pytest.mark.slow
@each_sampler
def test_scales_that_are_fixed_are_not_sampled(few, method):
    model = replace(LINEAR, n_factors=1, priors=replace(LINEAR.priors, sigma_U=Fixed(0.3)))
    posterior = sample(model, few, method, n_draws=4, n_warmup=2)
    expected = {"mu", "b", "c", "U", "V", "mu_U", "mu_V", "sigma_V", "tau"}
    assert set(posterior.latents) == expected
