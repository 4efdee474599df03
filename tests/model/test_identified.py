"""What the ratings identify: the same number for every way to write the same scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Ratings,
)
from pyro_pmf.model.identified import identified, quantities
from pyro_pmf.model.terms import Terms, terms_of

# --- parameters ---


def test_factors_are_known_up_to_a_scale_and_so_are_their_standard_deviations():
    a = torch.rand(50) + 0.5
    terms = terms_of(PMF(2, users="hierarchical"))
    latents = {"sigma_U": a, "sigma_W": 2 * a, "sigma_V": 1 / a, "sigma_b": a}
    found = identified(terms, latents)
    assert found.keys() == {"sigma_U sigma_V", "sigma_W sigma_V", "sigma_b"}
    torch.testing.assert_close(found["sigma_U sigma_V"], torch.ones(50))
    torch.testing.assert_close(found["sigma_W sigma_V"], 2 * torch.ones(50))


def test_no_scale_of_one_side_is_identified_by_itself():
    """Multiplying those of users and dividing those of items by any numbers changes nothing."""
    terms = terms_of(PMF(2, users="hierarchical", items="hierarchical"))
    sides = ("sigma_U", "sigma_W"), ("sigma_V", "sigma_Z")
    latents = {name: torch.rand(50) + 0.5 for side in sides for name in side}
    found = identified(terms, latents)
    assert found.keys() == {f"{ours} {theirs}" for ours in sides[0] for theirs in sides[1]}
    by = torch.rand(50) + 0.5
    scaled = {name: x * (by if name in sides[0] else 1 / by) for name, x in latents.items()}
    for name, x in identified(terms, scaled).items():
        torch.testing.assert_close(x, found[name])


@pytest.mark.parametrize("fixed", ["sigma_U", "sigma_V", "sigma_W"])
def test_a_known_standard_deviation_sets_the_unit_of_the_others(fixed):
    latents = {name: torch.rand(50) for name in ("sigma_U", "sigma_W", "sigma_V") if name != fixed}
    found = identified(terms_of(PMF(2, users="hierarchical")), latents)
    assert found.keys() == latents.keys()


@pytest.mark.parametrize("terms", [terms_of(PMF(0)), Terms()], ids=["biases", "none"])
def test_without_factors_all_latents_are_identified(terms):
    latents = {name: torch.rand(50) for name in ("sigma_U", "sigma_V", "sigma_b")}
    found = identified(terms, latents)
    assert found.keys() == latents.keys()
    assert all(torch.equal(found[name], x) for name, x in latents.items())


def test_the_scale_of_a_factor_multiplies_the_side_of_users():
    """tau a with sigma_U / a, and factors in another order, are the same model."""
    terms = terms_of(PMF(3, users="hierarchical"))
    latents = {name: torch.rand(50) + 0.5 for name in ("sigma_U", "sigma_W", "sigma_V")}
    latents["tau"] = torch.rand(50, 3) + 0.5
    found = identified(terms, latents)
    assert found.keys() == {"sigma_U sigma_V tau", "sigma_W sigma_V tau"}
    spread = latents["tau"].double().square().mean(-1).sqrt()
    expected = latents["sigma_U"] * latents["sigma_V"] * spread
    torch.testing.assert_close(found["sigma_U sigma_V tau"], expected)
    a = torch.rand(50) + 0.5
    other = {
        "sigma_U": latents["sigma_U"] / a,
        "sigma_W": latents["sigma_W"] / a,
        "sigma_V": latents["sigma_V"],
        "tau": a[:, None] * latents["tau"][:, [2, 0, 1]],
    }
    for name, x in identified(terms, other).items():
        torch.testing.assert_close(x, found[name])


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ("sigma_V", {"sigma_U tau", "sigma_W tau"}),
        ("sigma_U", {"sigma_W sigma_V tau", "sigma_V tau"}),
    ],
)
def test_tau_gives_the_users_a_scale_even_where_one_is_fixed(fixed, expected):
    terms = terms_of(PMF(3, users="hierarchical"))
    latents = {name: torch.rand(50) for name in ("sigma_U", "sigma_W", "sigma_V") if name != fixed}
    found = identified(terms, latents | {"tau": torch.rand(50, 3)})
    assert {" ".join(sorted(name.split())) for name in found} == {
        " ".join(sorted(name.split())) for name in expected
    }


def test_noise_is_the_same_for_sigma_times_a_and_offsets_less_log_a():
    terms = terms_of(PMF(0, noise="user_and_item"))
    latents = {"sigma": torch.rand(50) + 0.5, "s": torch.randn(50, 4), "t": torch.randn(50, 3)}
    found = identified(terms, latents)["sigma exp(s) exp(t)"]
    a = torch.rand(50) + 0.5
    other = latents | {"sigma": latents["sigma"] * a, "s": latents["s"] - a.log()[:, None]}
    torch.testing.assert_close(identified(terms, other)["sigma exp(s) exp(t)"], found)


# --- scores and effects ---

N_USERS, N_ITEMS, K, S = 7, 5, 2, 6
LIKELIHOODS = [
    NormalIdentity(),
    NormalSigmoid(),
    OrderedLogit(4),
    BernoulliLogit(),
    NegativeBinomialLog(),
    NegativeBinomialLog(ceiling=5.0),
]


def table_of_ratings() -> Ratings:
    user, item = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    rating = np.random.default_rng(0).integers(0, 4, len(user)).astype(float)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame[frame["user"] != 2].sample(20, random_state=0))


def draws_of(model: PMF, ratings: Ratings) -> dict[str, torch.Tensor]:
    trace = pyro.poutine.trace(model)
    runs = [trace.get_trace(ratings.without_values()).nodes for _ in range(S)]
    return {
        name: torch.stack([run[name]["value"] for run in runs])
        for name, site in runs[0].items()
        if site["type"] == "sample" and site["fn"].has_rsample and name != "rating"
    }


def written_out(latents: dict[str, torch.Tensor]) -> torch.Tensor:
    """All scores, less the middle cut point; shape (S, n_users, n_items)."""
    score = latents["U"] @ latents["V"].mT + latents["b"][:, :, None] + latents["c"][:, None]
    if "shares" in latents:
        below = latents["shares"].cumsum(-1)[:, :-1]
        cut = (below / (1 - below)).log()
        return score - cut[:, cut.shape[1] // 2, None, None]
    return score + latents["mu"][:, None, None]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("rows", ["independent", "hierarchical"])
def test_scores_and_effects_are_those_of_the_equations(likelihood, rows):
    ratings = table_of_ratings()
    model = PMF(K, users=rows, items=rows, likelihood=likelihood)
    latents = draws_of(model, ratings)
    found = quantities(model, ratings, latents, n_each=30)
    score = written_out(latents)
    for name, x in found["score"].items():
        u, i = (int(k) for k in name.split(", "))
        at = score[:, ratings.user_ids.get_loc(u), ratings.item_ids.get_loc(i)]
        np.testing.assert_allclose(x, at, rtol=1e-3, atol=1e-4)
    effects = found["effect"]
    assert effects.shape[1] == ratings.n_users + ratings.n_items
    for ids, side, dim in ((ratings.user_ids, "user", 2), (ratings.item_ids, "item", 1)):
        for k, x in enumerate(ids):
            mean = score.mean(dim)[:, k]
            np.testing.assert_allclose(effects[f"{side} {x}"], mean, rtol=1e-3, atol=1e-4)
    mean = score.mean((1, 2))
    np.testing.assert_allclose(found["parameter"]["mean score"], mean, rtol=1e-3, atol=1e-4)
    gaps = [name for name in found["parameter"] if name.startswith("cutpoints")]
    assert len(gaps) == (2 if isinstance(likelihood, OrderedLogit) else 0)
    assert "mu" not in found["parameter"]


def test_what_mu_and_biases_exchange_changes_no_quantity():
    """mu + a, b - a, and a rotation of the factors, are the same scores."""
    ratings, model = table_of_ratings(), PMF(K, noise="shared", likelihood=NormalIdentity())
    latents = {site: x.double() for site, x in draws_of(model, ratings).items()}
    a = torch.randn(S).double()
    turn = torch.linalg.qr(torch.randn(K, K).double())[0]
    other = latents | {
        "mu": latents["mu"] + a,
        "b": latents["b"] - a[:, None],
        "U": latents["U"] @ turn,
        "V": latents["V"] @ turn,
    }
    one, same = (quantities(model, ratings, x, n_each=10) for x in (latents, other))
    pd.testing.assert_frame_equal(one, same, atol=1e-6)


def test_a_model_of_ones_own_has_mean_ratings_and_parameters():
    def model(ratings):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("ratings", len(ratings)):
            return pyro.sample("rating", dist.Normal(theta.expand(len(ratings)), 1.0))

    theta = torch.randn(S)
    found = quantities(model, table_of_ratings(), {"theta": theta}, n_each=3)
    assert set(found.columns.get_level_values(0)) == {"score", "parameter"}
    np.testing.assert_allclose(found["parameter"]["theta"], theta)
    np.testing.assert_allclose(found["score"].iloc[:, 0], theta)


def test_the_choice_of_pairs_depends_only_on_the_seed():
    ratings, model = table_of_ratings(), PMF(K, likelihood=NormalIdentity())
    latents = draws_of(model, ratings)
    names = [
        list(quantities(model, ratings, latents, n_each=2, seed=seed)["score"])
        for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]
