"""A new term touches `model` only: one is stated here, and all other rooms treat it as their own.

The term: each user follows popularity by a slope of their own, a_i x_j, with x_j the standardised
log number of ratings of item j.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from torch import Tensor

from pyro_pmf import MAP, NUTS, PMF, VI, FitError, HalfNormal, NormalIdentity, Priors, Ratings, fit
from pyro_pmf.criticism.plots import plot_scales
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.centring import centring_for_sampling
from pyro_pmf.inference.scales import map_scales
from pyro_pmf.model.priors import Prior
from pyro_pmf.model.terms import Moments, Term, Terms, TermSampler

N_USERS, N_ITEMS = 60, 40
TRUE_SD = 0.8


@dataclass(frozen=True)
class Slope(Term):
    """The score has + a_i x_j, with x_j of mean zero over the items."""

    def effect(self, latents: Mapping[str, Moments]) -> Moments:
        """Average a_i x_j over all items j: nothing is left."""
        mean, var = latents[self.site]
        return torch.zeros_like(mean), torch.zeros_like(var)


SLOPE = Slope("a", "users", "slopes of users on popularity", map_scale=0.5)


@dataclass(frozen=True)
class PriorsWithSlope(Priors):
    sigma_a: Prior = field(default=HalfNormal(1.0))


def popularity(pairs: Pairs) -> Tensor:
    """Return x_j, shape (n_items,)."""
    x = torch.log1p(pairs.item_counts.to(pairs.dtype))
    return (x - x.mean()) / x.std()


@dataclass(frozen=True)
class PMFWithSlope(PMF):
    """mu + b_i + c_j + a_i x_j, without factors."""

    n_factors: int = 0
    noise: str = "shared"
    priors: Priors = field(default_factory=PriorsWithSlope)

    @property
    def terms(self) -> Terms:
        return Terms([*super().terms, SLOPE])

    def __call__(self, ratings: Pairs, history: Pairs | None = None) -> Tensor:
        seen = ratings if history is None else history
        sample = TermSampler(self.terms, self.priors, self.n_factors, ratings)
        sigma, mu = sample.scalar("sigma"), sample.scalar("mu")
        b, c, a = (sample.rows(site, sample.scale(site)) for site in "bca")
        x = popularity(seen)[:, None]
        score = mu + sample.at_pairs(a[..., None], x, b, c)  # mu + b_i + c_j + a_i x_j
        with pyro.plate("ratings", len(ratings), dim=-1):
            return pyro.sample("rating", self.likelihood(score, sigma), obs=ratings.value)


MODEL = PMFWithSlope(likelihood=NormalIdentity())


@pytest.fixture(scope="module")
def truth() -> tuple[Ratings, np.ndarray]:
    """Ratings that follow the model, and the true slopes."""
    generator = np.random.default_rng(3)
    share = np.linspace(0.05, 0.95, N_ITEMS)  # items differ in popularity
    user, item = np.nonzero(generator.random((N_USERS, N_ITEMS)) < share)
    x = np.log1p(np.bincount(item, minlength=N_ITEMS))
    x = (x - x.mean()) / x.std(ddof=1)
    a = generator.normal(0, TRUE_SD, N_USERS)
    rating = 0.3 * generator.normal(size=N_ITEMS)[item] + a[user] * x[item]
    rating += 0.3 * generator.normal(size=len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, transform="standardize"), a / frame["rating"].std(ddof=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [VI(), MAP()], ids=["vi", "map"])
def test_every_method_learns_it(truth, method):
    """The slopes correlate with the true ones, by an error that 40 ratings a user allow."""
    ratings, a = truth
    posterior = fit(MODEL, ratings, method, progress=False)
    learnt = posterior.latents["a"].mean.double().numpy()
    assert np.corrcoef(learnt, a)[0, 1] > 0.98
    plain = fit(
        PMF(0, noise="shared", likelihood=NormalIdentity()), ratings, method, progress=False
    )
    rmse = [p.evaluate(ratings)["rmse"] for p in (posterior, plain)]
    assert rmse[0] < 0.7 * rmse[1]


def test_scales_centring_and_effects_ask_it(truth):
    ratings, _ = truth
    assert map_scales(MODEL, ratings)["sigma_a"] == pytest.approx(
        0.5 * MODEL.likelihood.noise_sd(ratings.value) ** 0.5
    )
    assert set(centring_for_sampling(MODEL, ratings)) == {"a", "b", "c"}
    posterior = fit(MODEL, ratings, progress=False)
    effects = posterior.user_effects().set_index("user")["mean"]
    b = posterior.latents["b"].mean.double().numpy()
    assert effects[posterior.ratings.user_ids].to_numpy() == pytest.approx(b, abs=1e-6)


@pytest.mark.slow
def test_draws_predictions_and_figures(truth):
    """Chains sample it, unknown users get their slope from the prior, and figures name it."""
    pytest.importorskip("matplotlib")
    ratings, _ = truth
    few = Ratings.from_frame(ratings.to_frame().query("user < 12"), transform="standardize")
    with pytest.raises(FitError, match="method='nuts', which takes any Pyro model"):
        fit(MODEL, few, "gibbs", progress=False)
    posterior = fit(MODEL, few, NUTS(n_draws=10, n_warmup=30, n_chains=1), progress=False)
    assert posterior.latents["a"].shape == (10, few.n_users)
    pairs = pd.DataFrame({"user": [0, 999], "item": few.item_ids[:2]})
    predicted = posterior.predict(pairs)
    assert np.isfinite(predicted[["mean", "sd"]].to_numpy()).all()
    assert predicted["sd"][1] > predicted["sd"][0]
    labels = [tick.get_text() for tick in plot_scales(posterior).get_yticklabels()]
    assert any(label.startswith("slopes of users on popularity") for label in labels)
