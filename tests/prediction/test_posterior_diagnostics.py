"""Diagnostics of fits whose chains are made up, beside ArviZ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_pmf import PMF, VI, NormalIdentity, OrderedLogit, PMFError, Posterior, Ratings, fit
from pyro_pmf.prediction.arviz_versions import arviz

N_USERS, N_ITEMS, N_DRAWS = 8, 6, 100
FRAME = pd.DataFrame(
    {
        "user": np.repeat([f"u{k}" for k in range(N_USERS)], N_ITEMS),
        "item": np.tile(np.arange(N_ITEMS), N_USERS),
        "rating": np.random.default_rng(0).integers(1, 6, N_USERS * N_ITEMS).astype(float),
    }
)


def sampled(model: PMF, **changes: torch.Tensor) -> Posterior:
    """Return two chains of independent draws, but for the sites that are given."""
    ratings = Ratings.from_frame(FRAME)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(2 * N_DRAWS, *shape, generator=generator, dtype=torch.float64)

    latents = {"b": 0.3 * normal(N_USERS), "c": 0.3 * normal(N_ITEMS)}
    latents |= {name: normal().abs() for name in ("sigma_b", "sigma_c")}
    if isinstance(model.likelihood, OrderedLogit):
        latents["shares"] = normal(5).softmax(-1)
    else:
        latents |= {"mu": normal(), "sigma": 0.1 + 0.1 * normal().abs()}
    log_likelihood = normal().numpy()
    steps = pd.DataFrame({"log_likelihood": log_likelihood, "divergent": False})
    return Posterior(model, ratings, latents | changes, 2 * N_DRAWS, steps, True, n_chains=2)


MODELS = [
    PMF(0, noise="shared", likelihood=NormalIdentity()),
    PMF(0, noise="shared", likelihood=OrderedLogit(5)),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=["normal", "ordered"])
def test_the_table_has_the_numbers_of_arviz(model):
    posterior = sampled(model)
    table = posterior.diagnostics(n_each=5)
    assert list(table) == [
        "kind", "quantity", "mean", "sd", "r_hat", "ess_bulk", "ess_tail", "mcse_mean",
    ]  # fmt: skip
    rows = table.set_index(["kind", "quantity"])
    assert (table.groupby("kind").size().loc[["effect", "score"]] >= 5).all()
    b = posterior.latents["b"][:, 0] + posterior.latents["c"].mean(1)
    if "mu" in posterior.latents:
        b = b + posterior.latents["mu"]
    else:
        below = posterior.latents["shares"].cumsum(-1)[:, 2]
        b = b - (below / (1 - below)).log()
    drawn = b.reshape(2, -1).numpy()
    all_rows = posterior.diagnostics().set_index(["kind", "quantity"])
    row, az = all_rows.loc["effect", "user u0"], arviz()
    assert row["mean"] == pytest.approx(drawn.mean())
    assert row["sd"] == pytest.approx(drawn.std(ddof=1))
    # Draws as far above the median as others below are ties, which rounding breaks.
    assert row["r_hat"] == pytest.approx(float(az.rhat(drawn)), abs=1e-3)
    assert row["ess_bulk"] == pytest.approx(float(az.ess(drawn, method="bulk")))
    assert row["ess_tail"] == pytest.approx(float(az.ess(drawn, method="tail", prob=(0.05, 0.95))))
    assert row["mcse_mean"] == pytest.approx(float(az.mcse(drawn, method="mean")))
    log_likelihood = rows.loc["parameter", "log_likelihood"]
    assert log_likelihood["mean"] == pytest.approx(posterior.steps["log_likelihood"].mean())


def test_chains_apart_are_seen_where_they_matter():
    """What mu and the biases exchange is not seen; one user's bias is."""
    apart = torch.arange(2 * N_DRAWS).ge(N_DRAWS).double() * 5
    model = MODELS[0]
    good = sampled(model)
    exchanged = {
        "mu": good.latents["mu"] + apart,
        "b": good.latents["b"] - apart[:, None],
    }
    bad = good.latents["b"].clone()
    bad[:, 3] += apart
    for changes, seen in ((exchanged, []), ({"b": bad}, ["user u3"])):
        table = sampled(model, **changes).diagnostics()
        effects = table[(table["kind"] == "effect") & (table["r_hat"] > 1.3)]
        assert effects["quantity"].tolist() == seen


def test_a_fit_without_chains_is_refused():
    ratings = Ratings.from_frame(FRAME)
    posterior = fit(MODELS[0], ratings, VI(max_steps=30, learn_scales=None), progress=False)
    with pytest.raises(PMFError, match="Diagnostics need draws of Markov chains"):
        posterior.diagnostics()
    with pytest.raises(PMFError, match="errors need draws of Markov chains"):
        posterior.predict(ratings, mcse=True)
    with pytest.raises(PMFError, match="n_each"):
        sampled(MODELS[0]).diagnostics(n_each=0)


@pytest.mark.slow
def test_the_monte_carlo_error_of_a_prediction_is_arviz_of_the_means():
    """The mean of a Normal rating is mu + b_i + c_j, times the width of the scale."""
    posterior = sampled(MODELS[0])
    pairs = FRAME[["user", "item"]].sample(7, random_state=0)
    table = posterior.predict(pairs, mcse=True)
    latents = posterior.latents
    for row, user, item in zip(table["mcse"], pairs["user"], pairs["item"], strict=True):
        u, i = posterior.ratings.user_ids.get_loc(user), posterior.ratings.item_ids.get_loc(item)
        mean = 4 * (latents["mu"] + latents["b"][:, u] + latents["c"][:, i])
        expected = arviz().mcse(mean.reshape(2, -1).numpy(), method="mean")
        assert row == pytest.approx(float(expected), rel=1e-5)
    assert "mcse" not in posterior.predict(pairs)
