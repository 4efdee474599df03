"""The deterministic ELBO against Monte Carlo, closed forms and numerical integration."""

from dataclasses import replace
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy import integrate, stats
from scipy.special import expit
from torch.distributions import kl_divergence

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.likelihoods import NormalIdentity
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed, LogNormal, Priors
from pyro_pmf.moments.expectations import expected_log_prob
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm

N_USERS, N_ITEMS, N_RATINGS = 30, 20, 250
FIXED = Priors(sigma=Fixed(0.2), sigma_U=Fixed(0.5), sigma_b=Fixed(0.4), mu=Fixed(0.3))
REAL_ONLY = Priors(**{f"sigma{of}": Fixed(0.3) for of in ("", "_U", "_V", "_W", "_Z", "_b", "_c")})
ROWS = ["independent", "hierarchical"]
# Every two of rows, biases and divisors together.
MODELS = [
    PMF(3, users, items, biases, "sqrt_count" if biases == (users == items) else "count", "shared")
    for users, items, biases in product(ROWS, ROWS, [True, False])
] + [
    PMF(0, noise="shared"),
    PMF(0, noise="item"),
    PMF(3, biases="user", noise="shared"),
    PMF(3, biases="item", noise="shared"),
    PMF(3, "hierarchical", "hierarchical", noise="user_and_item"),
    PMF(3, noise="user", priors=Priors(sigma=Fixed(0.3))),
    PMF(3, noise="shared", priors=FIXED),
    PMF(3, "hierarchical", "hierarchical", priors=replace(FIXED, sigma_W=LogNormal(0.2, 0.5))),
]


def label(model):
    parts = [f"{model.n_factors}", model.users[:3], model.items[:3], model.divisor]
    parts += [model.noise] + [f"{model.biases}"] + ["fixed"] * (model.priors != Priors())
    return "-".join(parts)


@pytest.fixture
def ratings():
    cells = torch.randperm(N_USERS * N_ITEMS)[:N_RATINGS].sort().values
    value = torch.rand(N_RATINGS, dtype=torch.float64)
    return Pairs(cells // N_ITEMS, cells % N_ITEMS, N_USERS, N_ITEMS, value)


def perturbed_guide(model, ratings):
    """A `NormalGuide` away from its start, with standard deviations of about 0.1."""
    guide = NormalGuide(model, init_loc_fn=initial_value)
    guide(ratings)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


def loss_and_gradient(elbo, model, guide, ratings):
    parameters = list(guide.parameters())
    loss = elbo.differentiable_loss(model, guide, ratings)
    gradient = torch.autograd.grad(loss, parameters)
    return loss.item(), torch.cat([part.flatten() for part in gradient])


# Against Monte Carlo


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("model", MODELS, ids=label)
def test_value_and_gradient_are_those_of_trace_elbo(model, ratings):
    """By t-tests on 30 batches of 16 particles, of the loss, each coordinate, and the length.

    Bonferroni's bound on a false alarm in any model and coordinate is 10^-3; the seed is fixed.
    """
    guide = perturbed_guide(model, ratings)
    loss, gradient = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    monte_carlo = Trace_ELBO(16, max_plate_nesting=1, vectorize_particles=True)
    runs = [loss_and_gradient(monte_carlo, model, guide, ratings) for _ in range(30)]
    losses = torch.tensor([run[0] for run in runs], dtype=torch.float64)
    gradients = torch.stack([run[1] for run in runs])
    along = gradient / gradient.norm()
    errors = torch.cat(
        [
            (losses - loss)[:, None],
            ((gradients - gradient) @ along)[:, None],
            gradients - gradient,
        ],
        dim=1,
    )
    t = errors.mean(0) / (errors.std(0) / len(runs) ** 0.5)
    limit = stats.t(len(runs) - 1).isf(1e-3 / (2 * len(t) * len(MODELS)))
    assert t.abs().max() < limit
    assert torch.cosine_similarity(gradients.mean(0), gradient, dim=0) > 0.98


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(("sd", "bound"), [(0.1, 1e-3), (0.3, 3e-3), (0.6, 2e-2)])
def test_a_score_read_as_gaussian_misplaces_a_rating_by_little(sd, bound, ratings):
    """The mean and standard deviation of sigmoid(U_i . V_j), whose law is not quite Gaussian.

    10^5 draws: Monte Carlo's own error is 6 * 0.25 / 10^2.5 < bound at six standard errors, and
    less by far where sd is small.
    """
    u, v = torch.randn(2, 50, 3, dtype=torch.float64) * 0.5
    score_mean = (u * v).sum(-1)
    score_var = (sd**2 * (u**2 + v**2) + sd**4).sum(-1)
    rule = torch.sigmoid(Gaussian(score_mean, score_var))
    parts = []
    for _ in range(50):  # of few draws each, which fit into a cache
        noise = sd * torch.randn(2, 2_000, 50, 3, dtype=torch.float64)
        parts.append(((u + noise[0]) * (v + noise[1])).sum(-1).sigmoid())
    draws = torch.cat(parts)
    assert (rule.mean - draws.mean(0)).abs().max() < bound
    assert (rule.var.sqrt() - draws.std(0)).abs().max() < bound


# Against formulas


POSITIVE = ["sigma", "sigma_U", "sigma_V", "sigma_W", "sigma_b", "sigma_c", "tau"]
LOG_NORMAL = Priors(**{name: LogNormal(0.3 + 0.1 * i, 0.4) for i, name in enumerate(POSITIVE)})


def guide_moments(guide):
    return {name: [x.detach() for x in guide.loc_and_scale(name)] for name, _ in guide.sites()}


def dense_terms(q, ratings):
    """The ELBO by site: hierarchical users, independent items, biases, a Normal likelihood."""
    n = ratings.user_counts.double().clamp(min=1)
    seen = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    seen[ratings.user, ratings.item] = 1.0
    seen = seen / n.sqrt()[:, None]
    (u, u_sd), (v, v_sd) = q["U"], q["V"]
    u_var, v_var = u_sd**2, v_sd**2
    mean = q["mu"][0] + q["b"][0][:, None] + q["c"][0] + u @ v.T
    var = q["mu"][1] ** 2 + q["b"][1][:, None] ** 2 + q["c"][1] ** 2
    var = var + u_var @ (v**2).T + u**2 @ v_var.T + u_var @ v_var.T
    mean, var = (x[ratings.user, ratings.item] for x in (mean, var))

    def precision(name):
        log_mean, log_sd = q[name]
        return (-2 * log_mean + 2 * log_sd**2).exp()

    def log_normal(square, *names):  # E log Normal(x; 0, sd^2), over E x^2 and sd, a product
        factor = torch.stack([precision(name).expand(square.shape) for name in names]).prod(0)
        return -0.5 * (np.log(2 * np.pi) + factor * square) - sum(q[name][0] for name in names)

    terms = {"rating": log_normal((ratings.value - mean) ** 2 + var, "sigma").sum()}
    prior_mean, prior_var = seen @ q["W"][0], seen**2 @ q["W"][1] ** 2  # of U
    for site in ("U", "W", "V", "b", "c", "mu_U", "mu_V"):
        loc, scale = q[site]
        entropy = 0.5 * np.log(2 * np.pi * np.e) + scale.log()
        square = loc**2 + scale**2
        if site == "U":
            of_all, of_all_sd = q["mu_U"]
            square = (loc - of_all - prior_mean) ** 2 + scale**2 + of_all_sd**2 + prior_var
        if site == "V":
            of_all, of_all_sd = q["mu_V"]
            square = (loc - of_all) ** 2 + scale**2 + of_all_sd**2
        site_of_scale = site.removeprefix("mu_")
        scales = [f"sigma_{site_of_scale}", *(["tau"] if site_of_scale in "UW" else [])]
        terms[site] = (log_normal(square, *scales) + entropy).sum()
    terms["mu"] = -kl_divergence(dist.Normal(*q["mu"]), dist.Normal(0.0, 1.0))
    for name in POSITIVE:
        prior = getattr(LOG_NORMAL, name)
        target = dist.Normal(np.log(prior.median), prior.scale)
        terms[name] = -kl_divergence(dist.Normal(*q[name]), target).sum()
    return terms


def test_every_term_of_a_linear_model_is_exact(ratings):
    model = PMF(3, "hierarchical", noise="shared", priors=LOG_NORMAL, likelihood=NormalIdentity())
    guide = perturbed_guide(model, ratings)
    terms = GaussianELBO().terms(model, guide, ratings)
    truth = dense_terms(guide_moments(guide), ratings)
    assert terms.keys() == truth.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term.detach(), truth[name], msg=lambda m, n=name: f"{n}: {m}")


def test_standard_deviations_with_half_normal_priors(ratings):
    """The term of a LogNormal site, E log p - E log q, by numerical integration."""
    model = PMF(3)
    guide = perturbed_guide(model, ratings)
    terms = GaussianELBO().terms(model, guide, ratings)
    z = np.linspace(-12, 12, 2001)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    for name in ("sigma", "sigma_U", "sigma_b"):
        loc, scale = (x.item() for x in guide_moments(guide)[name])
        prior = stats.halfnorm(scale=model.priors.of(name, 3).scale)
        cross = prior.logpdf(np.exp(loc + scale * z)) @ weight
        entropy = stats.lognorm(scale, scale=np.exp(loc)).entropy()
        assert terms[name].item() == pytest.approx(cross + entropy, abs=1e-6)


def test_expected_log_likelihood_of_a_rating():
    """By integration over the score, for a sigma with a LogNormal guide."""
    mean, sd, log_sigma, spread = np.array([-1.0, 0.2, 2.0]), np.array([0.2, 0.5, 1.0]), -1.4, 0.3
    value = np.array([0.1, 0.9, 0.75])
    with pyro.validation_enabled(False):
        fn = PMF().likelihood(
            Gaussian(torch.tensor(mean), torch.tensor(sd**2), frozenset({"U"})),
            LogGaussian(torch.tensor(log_sigma), torch.tensor(spread**2), frozenset({"sigma"})),
        )
    got = expected_log_prob(fn, torch.tensor(value))
    z = np.linspace(-10, 10, 2001)
    weight = stats.norm.pdf(z) / stats.norm.pdf(z).sum()
    square = ((value[:, None] - expit(mean[:, None] + sd[:, None] * z)) ** 2) @ weight
    precision = np.exp(-2 * log_sigma + 2 * spread**2)
    truth = -0.5 * np.log(2 * np.pi) - log_sigma - 0.5 * precision * square
    np.testing.assert_allclose(got, truth, atol=3e-4)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize(
    ("prior", "frozen"),
    [
        (dist.HalfNormal(torch.tensor(0.7).double()), stats.halfnorm(scale=0.7)),
        (
            dist.LogNormal(*torch.tensor([-0.4, 0.8]).double()),
            stats.lognorm(0.8, scale=np.exp(-0.4)),
        ),
        (dist.Gamma(*torch.tensor([2.0, 3.0]).double()), stats.gamma(2.0, scale=1 / 3.0)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_expected_log_prior_of_a_standard_deviation(prior, frozen, shape):
    """By integration over its logarithm, for one number and as many entries as one wants."""
    loc, scale = -0.6, 0.3
    value = LogGaussian(*torch.tensor([loc, scale**2], dtype=torch.float64)).expand(shape)
    truth, _ = integrate.quad(
        lambda z: frozen.logpdf(np.exp(loc + scale * z)) * stats.norm.pdf(z), -12, 12, epsabs=1e-12
    )
    got = expected_log_prob(prior.expand(shape), value)
    np.testing.assert_allclose(got.expand(shape), np.full(shape, truth), atol=1e-6)


@pytest.mark.parametrize("loc", [torch.tensor(0.2), Gaussian(*torch.tensor([0.2, 0.1]))])
def test_an_expanded_standard_deviation_counts_once_for_each_value(loc):
    """The sum over a plate, whether the one sigma is written out or not."""
    log_sigma = LogGaussian(torch.tensor(-1.0), torch.tensor(0.04), frozenset({"sigma"}))
    written = LogGaussian(torch.full((5,), -1.0), torch.full((5,), 0.04), frozenset({"sigma"}))
    value = torch.linspace(0, 1, 5)
    with pyro.validation_enabled(False):
        fns = [dist.Normal(loc, log_sigma).expand([5]), dist.Normal(loc, written)]
    one, other = (expected_log_prob(fn, value) for fn in fns)
    assert one.shape == other.shape == (5,)
    torch.testing.assert_close(one, other)


def test_a_bernoulli_likelihood_is_integrated_by_quadrature():
    """Any distribution whose parameter is a random score: log p, not p, is averaged."""
    score = Gaussian(*torch.tensor([[0.5], [0.49]], dtype=torch.float64), frozenset({"U"}))
    fn = dist.Bernoulli(logits=score, validate_args=False)
    got = expected_log_prob(fn, torch.ones(1, dtype=torch.float64))
    truth, _ = integrate.quad(
        lambda z: np.log(expit(0.5 + 0.7 * z)) * stats.norm.pdf(z), -12, 12, epsabs=1e-12
    )
    assert got.item() == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize(
    ("fn", "family"),
    [
        (lambda x: dist.MultivariateNormal(x, torch.eye(3).double() + 1), Gaussian),
        (dist.Dirichlet, LogGaussian),
    ],
    ids=["multivariate Normal", "Dirichlet"],
)
def test_a_distribution_of_vectors_is_averaged_over_them_or_refused(fn, family):
    """Its density is no sum over entries, which are independent of each other."""
    mean, var = torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    value = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    draws = mean + var.sqrt() * torch.randn(100_000, 3, dtype=torch.float64)
    with pyro.validation_enabled(False):
        wanted = fn(draws.exp() if family is LogGaussian else draws).log_prob(value)
        try:
            got = expected_log_prob(fn(family(mean, var, frozenset({"x"}))), value)
        except NoClosedForm:
            return
    assert abs(got - wanted.mean()) < 6 * wanted.std() / len(wanted) ** 0.5 + 1e-3


# What it does not do


def test_it_is_deterministic_and_draws_nothing(ratings):
    model = PMF(3, "hierarchical", "hierarchical")
    guide = perturbed_guide(model, ratings)
    state = torch.get_rng_state()
    loss, gradient = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    again, same = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    assert loss == again
    assert torch.equal(gradient, same)
    assert torch.equal(torch.get_rng_state(), state)


def test_loss_and_grads_leaves_the_gradient_in_the_parameters(ratings):
    model = PMF(2)
    guide = perturbed_guide(model, ratings)
    loss, gradient = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    assert GaussianELBO().loss(model, guide, ratings) == loss
    assert GaussianELBO().loss_and_grads(model, guide, ratings) == loss
    assert torch.equal(torch.cat([p.grad.flatten() for p in guide.parameters()]), gradient)


def test_scale_and_mask_act_on_their_terms(ratings):
    model = PMF(2)
    guide = perturbed_guide(model, ratings)
    terms = GaussianELBO().terms(model, guide, ratings)

    def scaled(*args):
        with poutine.scale(scale=7.0):
            return model(*args)

    # All sites of the model are scaled, those of the guide are not.
    got = GaussianELBO().terms(scaled, guide, ratings)
    torch.testing.assert_close(got["rating"], 7 * terms["rating"])
    both = GaussianELBO().terms(poutine.scale(model, 7.0), poutine.scale(guide, 7.0), ratings)
    for name in terms:
        torch.testing.assert_close(both[name], 7 * terms[name])
    masked = GaussianELBO().terms(poutine.mask(model, False), poutine.mask(guide, False), ratings)
    assert not any(masked.values())


def test_ratings_without_values_are_refused(ratings):
    """The site rating is then latent, and the guide does not have it: a draw must be made."""
    model = PMF(2)
    guide = perturbed_guide(model, ratings)
    with pytest.raises(TypeError):
        GaussianELBO().loss(model, guide, ratings.without_values())


@pytest.mark.parametrize("priors", [Priors(), REAL_ONLY], ids=["default", "real"])
def test_auxiliary_sites_are_refused(priors, ratings):
    model = PMF(2, priors=priors)
    with pytest.raises(NoClosedForm, match="auxiliary site"):
        GaussianELBO().loss(model, AutoNormal(model), ratings)


def test_a_guide_with_dependent_sites_is_refused(ratings):
    def small(ratings):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("users", N_USERS):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(mu + b[..., ratings.user], 1.0), obs=ratings.value)

    def dependent(ratings):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("users", N_USERS):
            pyro.sample("b", dist.Normal(mu, 1.0))

    with pytest.raises(NoClosedForm, match="'b', which depends on another"):
        GaussianELBO().loss(small, dependent, ratings)


@pytest.mark.parametrize("model", [PMF(3), PMF(2, "hierarchical", "hierarchical")], ids=label)
def test_a_point_guide_gives_what_trace_elbo_gives(model, ratings):
    guide = AutoDelta(model, init_loc_fn=initial_value)
    guide(ratings)
    got = loss_and_gradient(GaussianELBO(), model, guide, ratings)
    wanted = loss_and_gradient(Trace_ELBO(), model, guide, ratings)
    assert got[0] == pytest.approx(wanted[0], rel=1e-12)
    torch.testing.assert_close(got[1], wanted[1])
