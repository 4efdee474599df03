"""What is read off a guide, against draws of it, and models that cannot predict."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.poutine.util import prune_subsample_sites

from pyro_pmf import MAP, PMF, VI, FitError, Fixed, Likelihood, Priors, Ratings, fit
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.centring import PartlyCentred, centring
from pyro_pmf.inference.scales import factor_scales
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.inference.variational.readout import check_prediction, read_latents
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian

N_USERS, N_ITEMS = 8, 6
COUNTS = [0, 1, 2, 3, 3, 4, 5, 6]  # of the users; nobody rated the last item but user 7
BOTH = PMF(2, "hierarchical", "hierarchical")
MODELS = [
    BOTH,
    PMF(2, "hierarchical", noise="shared"),
    PMF(2, items="hierarchical", biases=False, divisor="count", noise="user"),
]
# How much of a row's prior mean its new coordinate keeps: none, all, or as `centring` says.
COORDINATES = [0.0, 1.0, "partly"]
each_method = pytest.mark.parametrize("method", [VI(), MAP()], ids=["vi", "map"])


@pytest.fixture
def pairs() -> Pairs:
    user = torch.arange(N_USERS).repeat_interleave(torch.tensor(COUNTS))
    item = torch.cat([torch.arange(n) for n in COUNTS])
    value = torch.rand(len(user), dtype=torch.float64)
    return Pairs(user, item, N_USERS, N_ITEMS, value)


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return simulate(PMF(2), 12, 10, 60, seed=1)[0]


def latent_sites(model, ratings):
    trace = prune_subsample_sites(poutine.trace(model).get_trace(ratings))
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}


def perturbed(objective):
    """The same, away from its start."""
    with torch.no_grad():
        for _, leaf in objective.parameters():
            leaf.add_(0.3 * torch.randn_like(leaf))
    return objective


# --- closed forms ---


def drawn_rows(objective, pairs, n):
    """Return n draws of U and of V from the guide, by the model."""
    with pyro.plate("draws", n, dim=-2), torch.no_grad():
        guide_trace = poutine.trace(objective.guide).get_trace(pairs)
        trace = poutine.trace(poutine.replay(objective.model, guide_trace)).get_trace(pairs)
    return {name: trace.nodes[name]["value"] for name in "UV"}


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.users[:3]}-{model.items[:3]}")
def test_latents_have_the_moments_of_draws(pairs, model, coordinates, monkeypatch):
    """Of guide and model, within six standard errors: a false alarm in 10^8 per entry."""

    def config(model, pairs):
        partly = centring(model, pairs)
        if coordinates == "partly":
            return partly
        return {
            site: PartlyCentred(torch.full_like(reparam.centredness, coordinates))
            for site, reparam in partly.items()
        }

    monkeypatch.setattr("pyro_pmf.inference.variational.objective.centring", config)
    objective = perturbed(pose(model, pairs, VI()))
    assert isinstance(objective.elbo, GaussianELBO)
    latents, drawn = read_latents(objective, 1)
    assert not drawn
    assert set(latents) == set(objective.stated_sites) | set(objective.held)
    parts = [drawn_rows(objective, pairs, 4_000) for _ in range(5)]  # what fits into a cache
    for name in "UV":
        x, draws = latents[name], torch.cat([part[name] for part in parts])
        n = len(draws)
        assert isinstance(x, Gaussian)
        assert x.sites == {name}
        assert draws.shape == (n, *x.shape)
        assert ((draws.mean(0) - x.mean).abs() < 6 * (x.var / n).sqrt()).all()
        assert ((draws.var(0) - x.var).abs() < 6 * x.var * (2 / n) ** 0.5).all()


def test_each_site_of_variational_inference_has_its_family(ratings):
    objective = perturbed(pose(BOTH, ratings, VI()))
    latents, drawn = read_latents(objective, 1)
    assert not drawn
    assert latents.keys() == latent_sites(BOTH, ratings).keys()
    held = factor_scales(BOTH) | {"tau": [1.0, 1.0]}
    for name, x in latents.items():
        if name in held:
            assert torch.equal(x, torch.tensor(held[name]))
            continue
        assert isinstance(x, LogGaussian if name.startswith("sigma") else Gaussian)
        assert x.sites == {name}
        if name not in ("U", "V"):
            loc, scale = objective.guide.loc_and_scale(name)
            mean, var = (x.mean_log, x.log_var) if name.startswith("sigma") else (x.mean, x.var)
            assert torch.equal(mean, loc)
            assert torch.equal(var, scale**2)


def test_a_point_estimate_has_no_spread(ratings):
    objective = perturbed(pose(BOTH, ratings, MAP()))
    latents, drawn = read_latents(objective, 1)
    assert not drawn
    at = prune_subsample_sites(poutine.trace(objective.guide).get_trace(ratings))
    trace = poutine.trace(poutine.replay(objective.model, at)).get_trace(ratings)
    assert latents.keys() == latent_sites(objective.stated, ratings).keys()
    for name, x in latents.items():
        if name == "tau" or name.startswith("sigma"):
            assert torch.equal(x, trace.nodes[name]["value"])
        else:
            assert isinstance(x, Gaussian)
            torch.testing.assert_close(x.mean, trace.nodes[name]["value"].detach())
            assert not x.var.any()
            assert x.sites == {name}


@each_method
def test_what_is_read_does_not_change_with_the_fit(ratings, method):
    objective = pose(BOTH, ratings, method)
    latents, _ = read_latents(objective, 1)
    numbers = {
        f"{name} {part}": x
        for name, value in latents.items()
        for part, x in ({"": value} if isinstance(value, torch.Tensor) else vars(value)).items()
        if isinstance(x, torch.Tensor)
    }
    before = {name: x.clone() for name, x in numbers.items()}
    perturbed(objective)
    for name, x in numbers.items():
        assert torch.equal(x, before[name])
        assert not x.requires_grad
        assert x.device.type == "cpu"


# --- draws ---


class Tanh(Likelihood):
    """A likelihood that needs tensors, so that a posterior is draws."""

    def __call__(self, score, sigma, **own):
        return dist.Normal(0.5 + 0.5 * score.tanh(), sigma)


@pytest.mark.parametrize("method", [VI(max_steps=3, n_draws=5), MAP(max_steps=3, n_draws=5)])
def test_draws_are_of_the_stated_sites(ratings, method):
    model = PMF(2, "hierarchical", "hierarchical", likelihood=Tanh())
    if isinstance(method, VI):
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = fit(model, ratings, method, progress=False)
    else:
        posterior = fit(model, ratings, method, progress=False)
    sites = latent_sites(posterior.model, ratings)
    assert {k: v.shape[1:] for k, v in posterior.latents.items()} == {
        k: v.shape for k, v in sites.items()
    }
    assert posterior.n_draws == 5
    assert np.isfinite(posterior.predict(ratings).iloc[:, 2:6]).all(axis=None)


@pytest.mark.filterwarnings("ignore:Falling back to Trace_ELBO")
@pytest.mark.parametrize(
    ("model", "method"),
    [
        (PMF(2, likelihood=Tanh()), VI()),
        (PMF(2, likelihood=Tanh()), MAP()),
        (PMF(2), VI(guide=AutoNormal(PMF(2)))),
    ],
    ids=["vi", "map", "auto-normal"],
)
def test_draws_are_as_many_as_are_asked_for(ratings, model, method):
    objective = pose(model, ratings, method)
    latents, drawn = read_latents(objective, 7)
    assert drawn
    shapes = {name: x.shape for name, x in latent_sites(objective.stated, ratings).items()}
    assert {name: x.shape for name, x in latents.items()} == {
        name: (7, *shape) for name, shape in shapes.items()
    }
    assert not any(x.requires_grad for x in latents.values())
    for name, held in objective.held.items():
        assert (latents[name] == held).all()
    assert (len(latents["U"].unique()) == 2 * 12) == isinstance(method, MAP)


def with_interval(ratings, history=None):
    """A site whose guide is neither Normal nor LogNormal nor a point."""
    share = pyro.sample("share", dist.Uniform(torch.zeros(()), 1.0))
    b = pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(b * share, 0.3), obs=ratings.value)


def test_a_guide_of_other_families_is_drawn_from(ratings):
    objective = pose(with_interval, ratings, VI())
    assert isinstance(objective.elbo, GaussianELBO)
    latents, drawn = read_latents(objective, 50)
    assert drawn
    assert len(latents["share"].unique()) == 50
    assert latents["share"].min() > 0
    assert latents["share"].max() < 1


def test_a_point_estimate_of_any_family_is_no_draws(ratings):
    latents, drawn = read_latents(pose(with_interval, ratings, MAP()), 50)
    assert not drawn
    assert latents["share"].shape == ()


@pytest.mark.parametrize("error", [TypeError, AttributeError])
@each_method
def test_an_error_of_the_model_is_no_reason_to_draw(ratings, method, error):
    """It is raised where the model predicts, of new users."""

    def model(ratings):
        if ratings.n_users > 12:
            raise error("mine")
        return PMF(0)(ratings)

    objective = pose(model, ratings, method)
    with pytest.raises(error, match="mine"):
        read_latents(objective, 2)


# --- models that cannot predict ---


def of_users(ratings, n_users=None):
    zero = torch.zeros((), dtype=ratings.dtype)
    with pyro.plate("users", n_users or ratings.n_users):
        return pyro.sample("b", dist.Normal(zero, 1.0))


def observed(ratings, mean):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(mean, 0.2), obs=ratings.value)


def plain(ratings):
    return observed(ratings, of_users(ratings)[..., ratings.user])


def with_history(ratings, history=None):
    seen = ratings if history is None else history
    scale = (seen.user_counts > 0).to(ratings.dtype)
    return observed(ratings, (of_users(ratings) * scale)[..., ratings.user])


def about_their_mean(ratings):
    return observed(ratings, of_users(ratings)[..., ratings.user] + ratings.value.mean())


def of_known_users(ratings):
    return observed(ratings, of_users(ratings, 12)[..., ratings.user])


def of_each_rating(ratings):
    with pyro.plate("ratings", len(ratings)):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
        return pyro.sample("rating", dist.Normal(mean, 0.2), obs=ratings.value)


@each_method
@pytest.mark.parametrize("model", [plain, with_history, with_interval, PMF(0), BOTH])
def test_models_that_can_predict_pass(ratings, model, method):
    objective = pose(model, ratings, method)
    state = {name: leaf.clone() for name, leaf in objective.parameters()}
    check_prediction(objective)
    assert all(torch.equal(leaf, state[name]) for name, leaf in objective.parameters())


@pytest.mark.parametrize("method", [VI(), MAP(), VI(guide=AutoDelta)], ids=["vi", "map", "guide"])
@pytest.mark.parametrize(
    ("model", "error"),
    [
        (about_their_mean, AttributeError),
        (of_known_users, IndexError),
        (of_each_rating, Exception),
    ],
)
def test_models_that_cannot_predict_are_refused(ratings, model, error, method):
    objective = pose(model, ratings, method)
    with pytest.raises(FitError, match="new pairs") as refused:
        check_prediction(objective)
    assert isinstance(refused.value.__cause__, error)
    assert type(refused.value.__cause__).__name__ in str(refused.value)


def test_scales_that_priors_fix_are_not_read(ratings):
    model = PMF(2, priors=Priors(sigma_U=Fixed(0.4)))
    latents, _ = read_latents(pose(model, ratings, VI()), 1)
    assert "sigma_U" not in latents
    assert "sigma_V" in latents
