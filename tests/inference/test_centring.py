"""Partly centred rows: the same model in other coordinates, which suit a mean-field guide."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from pyro.infer.mcmc.util import initialize_model
from pyro.poutine.util import prune_subsample_sites
from scipy import stats

from pyro_pmf import MAP, PMF, VI, Fixed, Priors, Ratings, fit
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.centring import PartlyCentred, centring
from pyro_pmf.inference.scales import factor_scales
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.objective import pose

N_USERS, N_ITEMS = 8, 6
COUNTS = [0, 1, 2, 3, 3, 4, 5, 6]  # of the users; nobody rated the last item but user 7
BOTH = PMF(2, "hierarchical", "hierarchical")
FITTED = PMF(4, "hierarchical", "hierarchical", noise="shared")
KNOWN = Priors(tau=Fixed(1.0), sigma_U=Fixed(0.9), sigma_W=Fixed(0.8))
HELD = VI(tolerance=1e-4, learn_scales=None)
MODELS = [
    BOTH,
    PMF(2, "hierarchical", noise="shared"),
    PMF(2, items="hierarchical", biases=False, divisor="count", noise="user"),
]
# How much of a row's prior mean its new coordinate keeps: none, all, or as `centring` says.
COORDINATES = [0.0, 1.0, "partly"]

every_model = pytest.mark.parametrize(
    "model", MODELS, ids=lambda model: f"{model.users[:3]}-{model.items[:3]}"
)
all_coordinates = pytest.mark.parametrize("coordinates", COORDINATES)


@pytest.fixture
def pairs() -> Pairs:
    user = torch.arange(N_USERS).repeat_interleave(torch.tensor(COUNTS))
    item = torch.cat([torch.arange(n) for n in COUNTS])
    value = torch.rand(len(user), dtype=torch.float64)
    return Pairs(user, item, N_USERS, N_ITEMS, value)


def config(model, pairs, coordinates):
    partly = centring(model, pairs)
    if coordinates == "partly":
        return partly
    return {
        site: PartlyCentred(torch.full_like(reparam.centredness, coordinates))
        for site, reparam in partly.items()
    }


def centre(monkeypatch, coordinates):
    """Make fits use these coordinates."""
    monkeypatch.setattr(
        "pyro_pmf.inference.variational.objective.centring",
        partial(config, coordinates=coordinates),
    )


def reparametrized(model, pairs, coordinates="partly"):
    return poutine.reparam(model, config(model, pairs, coordinates))


def latent_values(trace):
    sites = prune_subsample_sites(trace).nodes.items()
    return {k: s["value"] for k, s in sites if s["type"] == "sample" and k != "rating"}


def weights(pairs, power=0.5):
    """The matrix of which the rows are the weights of W_j in the prior means of U_i."""
    seen = torch.zeros(pairs.n_users, pairs.n_items, dtype=torch.float64)
    seen[pairs.user, pairs.item] = 1.0
    return seen / seen.sum(1, keepdim=True).clamp(min=1) ** power


# --- the same model ---


def test_rows_are_the_more_centred_the_more_ratings_they_have(pairs):
    found = centring(BOTH, pairs)
    assert found.keys() == {"U", "V"}
    for site, counts in (("U", pairs.user_counts), ("V", pairs.item_counts)):
        c = found[site].centredness
        assert c.dtype == pairs.dtype
        assert (c[counts == 0] == 0).all()
        assert (c < 1).all()
        order = counts.argsort()
        assert torch.equal((c[order].diff() > 0), (counts[order].diff() > 0))


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        (PMF(2), {"U", "V"}),
        (PMF(2, means=False), set()),
        (PMF(0, "hierarchical", "hierarchical"), set()),
        (PMF(2, "hierarchical", means=False), {"U"}),
        (PMF(2, items="hierarchical", means=False), {"V"}),
    ],
)
def test_only_rows_with_a_prior_mean_are_reparametrized(pairs, model, sites):
    assert centring(model, pairs).keys() == sites


@every_model
@pytest.mark.parametrize("coordinates", [*COORDINATES, 0.3])
def test_the_joint_density_is_that_of_the_stated_model(pairs, model, coordinates):
    """The determinant of the change of coordinates is one: see the next test."""
    trace = poutine.trace(reparametrized(model, pairs, coordinates)).get_trace(pairs)
    value = latent_values(trace)
    stated = {k: v for k, v in value.items() if not k.endswith("_shifted")}
    assert len(stated) < len(value)
    expected = poutine.trace(poutine.condition(model, stated)).get_trace(pairs).log_prob_sum()
    assert trace.log_prob_sum().item() == pytest.approx(expected.item(), rel=1e-12)


@all_coordinates
def test_a_site_that_is_observed_stays_so(pairs, coordinates):
    U = torch.randn(N_USERS, 2, dtype=torch.float64)
    stated = poutine.condition(BOTH, {"U": U})
    trace = poutine.trace(poutine.reparam(stated, config(BOTH, pairs, coordinates))).get_trace(
        pairs
    )
    assert torch.equal(trace.nodes["U"]["value"], U)
    assert {"U", "U_shifted"} <= set(trace.observation_nodes)
    value = {k: v for k, v in latent_values(trace).items() if not k.endswith("_shifted")}
    expected = poutine.trace(poutine.condition(BOTH, value)).get_trace(pairs).log_prob_sum()
    assert trace.log_prob_sum().item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_change_of_coordinates_keeps_volumes(pairs):
    model = reparametrized(BOTH, pairs)
    value = latent_values(poutine.trace(model).get_trace(pairs))
    names = ("W", "Z", "U_shifted", "V_shifted")
    sizes = [value[name].numel() for name in names]

    def stated(flat):
        parts = zip(names, flat.split(sizes), strict=True)
        given = {name: part.view_as(value[name]) for name, part in parts}
        trace = poutine.trace(poutine.condition(model, value | given)).get_trace(pairs)
        return torch.cat([trace.nodes[name]["value"].flatten() for name in ("W", "Z", "U", "V")])

    # What is conditioned on must not hold U and V themselves.
    del value["U"], value["V"]
    flat = torch.cat([value[name].flatten() for name in names])
    jacobian = torch.autograd.functional.jacobian(stated, flat)
    assert (jacobian != torch.eye(len(flat))).any()
    sign, log_volume = torch.linalg.slogdet(jacobian)
    assert sign == 1
    assert abs(log_volume) < 1e-12


@pytest.mark.slow
@pytest.mark.statistical
@all_coordinates
def test_factors_have_the_stated_prior(pairs, coordinates):
    """The covariances of all U_i and W_j, which are jointly Normal, within five standard errors.

    There are 105 of them: a false alarm in 10^4. The particles are vectorised, 4,000 at once.
    """
    n, model = 20_000, PMF(1, "hierarchical", priors=KNOWN, means=False)
    known = reparametrized(model, pairs, coordinates)
    some = Predictive(known, num_samples=n // 5, parallel=True, return_sites=["U", "W"])
    draws = [some(pairs) for _ in range(5)]
    u, w = (torch.cat([part[name] for part in draws]).reshape(n, -1) for name in "UW")
    A = 0.8 * weights(pairs)
    own = 0.9**2 * torch.eye(N_USERS).double()
    expected = torch.cat(
        [
            torch.cat([own + A @ A.T, 0.8 * A], 1),
            torch.cat([0.8 * A.T, 0.8**2 * torch.eye(N_ITEMS).double()], 1),
        ]
    )
    variance = expected.diag()
    error = ((variance[:, None] * variance + expected**2) / n).sqrt()
    x = torch.cat([u, w], 1)
    assert ((torch.cov(x.T) - expected).abs() < 5 * error).all()
    assert (x.mean(0).abs() < 5 * (variance / n).sqrt()).all()


def test_centred_and_non_centred_are_the_ends(pairs):
    model = PMF(2, "hierarchical", priors=KNOWN)
    for coordinates in (0.0, 1.0):
        nodes = poutine.trace(reparametrized(model, pairs, coordinates)).get_trace(pairs).nodes
        U, y, prior = nodes["U"]["value"], nodes["U_shifted"]["value"], nodes["U_shifted"]["fn"]
        mean = nodes["mu_U"]["value"] + weights(pairs) @ nodes["W"]["value"]
        torch.testing.assert_close(prior.mean, coordinates * mean)
        torch.testing.assert_close(U - y, (1 - coordinates) * mean)
        assert (prior.stddev == 0.9).all()
        assert prior.event_shape == (2,)
        assert [frame.name for frame in nodes["U_shifted"]["cond_indep_stack"]] == ["users"]


# --- where a search begins; warnings are errors: "does not commute with initialization" ---


@all_coordinates
@pytest.mark.parametrize("autoguide", [NormalGuide, AutoNormal, AutoDelta])
def test_initial_values_pass_through(pairs, coordinates, autoguide):
    start = latent_values(poutine.trace(BOTH).get_trace(pairs))
    model = reparametrized(BOTH, pairs, coordinates)
    guide = autoguide(model, init_loc_fn=init_to_value(values=start))
    guide(pairs)
    c = config(BOTH, pairs, coordinates)["U"].centredness[:, None]
    expected = start["U"] - (1 - c) * (start["mu_U"] + weights(pairs) @ start["W"])
    found = guide.median()
    torch.testing.assert_close(found["U_shifted"], expected)
    torch.testing.assert_close(found["W"], start["W"])


@pytest.mark.parametrize("method", [VI(), MAP()])
def test_a_search_begins_near_the_prior_mean(pairs, method):
    objective = pose(BOTH, pairs, method)
    guide_trace = poutine.trace(objective.guide).get_trace(pairs)
    if isinstance(method, VI):
        locs = {k: objective.guide.loc_and_scale(k)[0] for k in ("W", "U_shifted")}
    else:
        locs = {k: guide_trace.nodes[k]["value"] for k in ("W", "U_shifted")}
    c = centring(BOTH, pairs)["U"].centredness[:, None]
    mean = weights(pairs) @ locs["W"]
    away = locs["U_shifted"] - c * mean
    assert (away != 0).all()
    assert away.abs().max() < 0.5
    assert locs["W"].abs().max() < 0.5


@pytest.mark.parametrize("jit", [False, True])
def test_nuts_may_run_in_these_coordinates(pairs, jit):
    """The potential is the stated log joint at the U that follows."""
    model = reparametrized(BOTH, pairs)
    parameters, potential, transforms, _ = initialize_model(
        model, (pairs,), jit_compile=jit, skip_jit_warnings=True
    )
    parameters = {name: torch.randn_like(z) for name, z in parameters.items()}
    value = {n: transforms[n].inv(z) if n in transforms else z for n, z in parameters.items()}
    nodes = poutine.trace(poutine.condition(model, value)).get_trace(pairs).nodes
    stated = {k: v for k, v in value.items() if not k.endswith("_shifted")}
    stated |= {name: nodes[name]["value"] for name in "UV"}
    expected = poutine.trace(poutine.condition(BOTH, stated)).get_trace(pairs).log_prob_sum()
    volume = sum(
        z.sum() for name, z in parameters.items() if name == "tau" or name.startswith("sigma")
    )
    torch.testing.assert_close(potential(parameters), -expected - volume)


# --- the ELBO; what is read off is in variational/test_readout.py ---


def posed(model, pairs, coordinates, monkeypatch, scales=None):
    """A fit's objective away from its start."""
    centre(monkeypatch, coordinates)
    objective = pose(model, pairs, VI(), scales)
    leaves = [leaf for _, leaf in objective.parameters()]
    with torch.no_grad():
        for leaf in leaves:
            leaf.add_(0.3 * torch.randn_like(leaf))
    assert isinstance(objective.elbo, GaussianELBO)
    return objective, leaves


# Each of the coordinates; and scales that are held (None), or learnt.
POSED = [(0.0, None), (1.0, {}), ("partly", None), ("partly", {})]


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("coordinates", "scales"), POSED)
@every_model
def test_value_and_gradient_are_those_of_trace_elbo(
    pairs, model, coordinates, scales, monkeypatch
):
    """By t-tests on 30 batches of 16 particles, of the loss and each coordinate.

    Bonferroni's bound on a false alarm in any case and coordinate is 10^-3; the seed is fixed.
    """
    objective, leaves = posed(model, pairs, coordinates, monkeypatch, scales)

    def loss_and_gradient(elbo):
        loss = elbo.differentiable_loss(objective.model, objective.guide, pairs)
        gradient = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([loss.detach()[None], *(part.flatten() for part in gradient)])

    exact = loss_and_gradient(GaussianELBO())
    monte_carlo = Trace_ELBO(16, max_plate_nesting=1, vectorize_particles=True)
    runs = torch.stack([loss_and_gradient(monte_carlo) for _ in range(30)])
    t = (runs.mean(0) - exact) / (runs.std(0) / len(runs) ** 0.5)
    limit = stats.t(len(runs) - 1).isf(1e-3 / (2 * len(t) * len(POSED) * len(MODELS)))
    assert t.abs().max() < limit
    assert torch.cosine_similarity(runs.mean(0)[1:], exact[1:], dim=0) > 0.98


@all_coordinates
@every_model
def test_the_terms_are_those_of_the_new_sites(pairs, model, coordinates, monkeypatch):
    """The site that was replaced is no latent, and has no term."""
    objective, _ = posed(model, pairs, coordinates, monkeypatch)
    terms = GaussianELBO().terms(objective.model, objective.guide, pairs)
    replaced = set(centring(model, pairs))
    new = {f"{name}_shifted" for name in replaced}
    others = set(latent_values(poutine.trace(model).get_trace(pairs))) - replaced
    assert set(terms) == others | new | {"rating"}
    assert set(objective.latent_sites) == (others | new) - set(objective.held)
    assert set(objective.stated_sites) == (others | replaced) - set(objective.held)


# --- fits ---


def uneven(seed):
    """Ratings by 300 users, of 1 to 180 of 200 items and, by one, of none.

    The standard deviations of the factors are those that a fit holds.
    """
    generator = np.random.default_rng(seed)
    counts = np.concatenate([[0], np.geomspace(1, 180, 299).round().astype(int)])
    user = torch.tensor(np.repeat(np.arange(300), counts))
    item = torch.tensor(np.concatenate([np.sort(generator.permutation(200)[:n]) for n in counts]))
    sd = factor_scales(FITTED) | {"tau": 1.0, "sigma": 0.1, "sigma_b": 0.4, "sigma_c": 0.4}
    priors = Priors(mu=Fixed(0.3), **{name: Fixed(value) for name, value in sd.items()})
    pyro.set_rng_seed(seed)
    rating = replace(FITTED, priors=priors)(Pairs(user, item, 300, 200)).double().numpy()
    return Ratings(user, item, pd.RangeIndex(300), pd.RangeIndex(200), (0.0, 1.0), rating)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_the_elbo_is_higher_than_of_either_end(seed, monkeypatch):
    """The better family gains 180 nats; what is left to gain in a fit is about one."""
    ratings, elbo = uneven(seed), {}
    for coordinates in COORDINATES:
        centre(monkeypatch, coordinates)
        posterior = fit(FITTED, ratings, HELD, progress=False)
        assert posterior.converged
        elbo[coordinates] = posterior.steps["elbo"].iloc[-1]
    assert elbo["partly"] > max(elbo[0.0], elbo[1.0]) + 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise", [pytest.param("shared", marks=pytest.mark.long), "user_and_item"]
)
def test_a_user_without_ratings_is_as_one_who_is_unknown(noise):
    """The ELBO leaves the prior to the row: the fit has found it to a percent."""
    ratings = uneven(0)
    method = replace(HELD, tolerance=1e-5)
    posterior = fit(replace(FITTED, noise=noise), ratings, method, progress=False)
    assert ratings.user_counts[0] == 0
    U, mu_U = posterior.latents["U"], posterior.latents["mu_U"]
    assert (U.mean[0] - mu_U.mean).abs().max() < 0.01
    sd = (factor_scales(FITTED)["sigma_U"] ** 2 + mu_U.var) ** 0.5
    np.testing.assert_allclose(U.var[0].sqrt(), sd, rtol=0.01)
    assert (U.var[-1] < 0.5 * U.var[0]).all()
    pairs = pd.DataFrame({"user": [0, 999, 0, 999], "item": [3, 3, 999, 999]})
    predicted = posterior.predict(pairs)
    assert predicted["known_user"].tolist() == [True, False] * 2
    assert predicted["known_item"].tolist() == [True, True, False, False]
    for name in ("mean", "sd", "lower", "upper"):
        row, unknown = predicted[name][::2], predicted[name][1::2]
        np.testing.assert_allclose(row, unknown, rtol=0.02)


@pytest.mark.long
def test_a_point_estimate_is_the_same_in_all_coordinates(monkeypatch):
    """The density is, and so its maximum; a fit leaves less than a nat to gain."""
    ratings, found = uneven(2), {}
    method = MAP(max_steps=5000, tolerance=1e-5, learn_scales=None)
    for coordinates in COORDINATES:
        centre(monkeypatch, coordinates)
        posterior = fit(FITTED, ratings, method, progress=False)
        assert posterior.converged
        found[coordinates] = posterior.steps["elbo"].iloc[-1], posterior.predict(ratings)["mean"]
    elbo, mean = found.pop("partly")
    for other_elbo, other_mean in found.values():
        assert other_elbo == pytest.approx(elbo, abs=1)
        assert np.sqrt(np.mean((other_mean - mean) ** 2)) < 0.01
