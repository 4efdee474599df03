"""The normal guide, and where a search begins."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.util import prune_subsample_sites
from scipy import stats
from torch.distributions import constraints, kl_divergence

from pyro_pmf.datasets import simulate
from pyro_pmf.inference.initialization import initial_value, is_positive, is_real
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.pmf import PMF

DRAWS = 20_000


@pytest.fixture(scope="module")
def ratings():
    return simulate(PMF(2), 12, 8, 60)[0]


def with_interval(ratings=None):
    """One site of each kind of support, one in a plate, one a vector."""
    pyro.sample("real", dist.Normal(0.0, 1.0))
    pyro.sample("positive", dist.Gamma(2.0, 3.0))
    pyro.sample("interval", dist.Uniform(-1.0, 3.0))
    with pyro.plate("rows", 4):
        pyro.sample("vector", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("scales", dist.HalfNormal(torch.ones(2)).to_event(1))
        pyro.sample("fractions", dist.Uniform(torch.zeros(2), 1.0).to_event(1))


def perturbed(guide_type, model, *args):
    guide = guide_type(model, init_scale=0.3)
    guide(*args)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return guide


class LogScaleAutoNormal(AutoNormal):
    scale_constraint = constraints.positive


def a_normal_guide_and_pyros():
    """Two guides with the same parameters."""
    ours = perturbed(NormalGuide, with_interval)
    pyros = perturbed(LogScaleAutoNormal, with_interval)
    pyros.load_state_dict(ours.state_dict())
    return ours, pyros


def draws_of(guide, *args):
    with pyro.plate("draws", DRAWS, dim=-2):
        return guide(*args)


def test_sites_are_the_families_themselves(ratings):
    guide = NormalGuide(PMF(2, "hierarchical"), init_loc_fn=initial_value)
    trace = prune_subsample_sites(poutine.trace(guide).get_trace(ratings))
    families = {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}
    assert {name for name, fn in families.items() if isinstance(fn, dist.LogNormal)} == {
        name for name in families if name.startswith("sigma")
    }
    for name in ("mu", "b", "c"):
        assert isinstance(families[name], dist.Normal)
    for name, shape in {"U": (12, 2), "W": (8, 2), "V": (8, 2)}.items():
        assert isinstance(families[name].base_dist, dist.Normal)
        assert families[name].event_shape == (2,)
        assert families[name].shape() == shape
    model_trace = poutine.trace(poutine.replay(guide.model, trace)).get_trace(ratings)
    model_trace = prune_subsample_sites(model_trace)
    assert {name for name, _ in model_trace.iter_stochastic_nodes()} == families.keys()


@pytest.mark.statistical
def test_it_is_the_distribution_of_pyros_auto_normal():
    """Two-sample Kolmogorov-Smirnov tests: by Bonferroni a false alarm in 10^4; seeded."""
    ours, pyros = a_normal_guide_and_pyros()
    a, b = draws_of(ours), draws_of(pyros)
    assert a.keys() == b.keys()
    p_values = []
    for name in a:
        x, y = (values.detach().reshape(DRAWS, -1).T for values in (a[name], b[name]))
        p_values += [stats.ks_2samp(*pair).pvalue for pair in zip(x, y, strict=True)]
    assert len(p_values) == 3 + 3 * 8
    assert min(p_values) > 1e-4 / len(p_values)


def test_the_density_is_that_of_pyros_auto_normal():
    ours, pyros = a_normal_guide_and_pyros()
    trace = poutine.trace(pyros).get_trace()
    wanted = trace.log_prob_sum()
    values = {name: trace.nodes[name]["value"] for name in ours.prototype_trace.stochastic_nodes}
    values = {n: v for n, v in values.items() if not n.startswith("_")}
    got = poutine.trace(poutine.condition(ours, data=values)).get_trace().log_prob_sum()
    torch.testing.assert_close(got, wanted)


@pytest.mark.statistical
def test_median_and_quantiles_are_those_of_draws():
    """Within six standard errors of a share of draws: a false alarm in 10^8."""
    guide = perturbed(NormalGuide, with_interval)
    draws, median, quantiles = draws_of(guide), guide.median(), guide.quantiles([0.1, 0.9])
    assert median["positive"] == guide.locs.positive.exp()
    for name in median:
        x = draws[name].reshape(DRAWS, *median[name].shape)
        stated = [(0.5, median[name]), *zip((0.1, 0.9), quantiles[name], strict=True)]
        for probability, quantile in stated:
            share = (x <= quantile).float().mean(0)
            error = 6 * np.sqrt(probability * (1 - probability) / DRAWS)
            assert ((share - probability).abs() < error).all(), name


def family(name):
    return dist.LogNormal if name in ("positive", "scales", "net.scale") else dist.Normal


def sites_in_modules():
    """Sites as the modules of PyroModule name them, one of them ending as another."""
    pyro.sample("real", dist.Normal(0.0, 1.0))
    pyro.sample("net.real", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("net.scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", 4):
        pyro.sample("scales", dist.HalfNormal(torch.ones(2)).to_event(1))


@pytest.mark.slow
def test_inverse_fisher_is_that_of_the_curvature_of_the_divergence():
    """The Hessian of KL(q(p0) || q(p)) at p = p0, in the parameters that are optimised."""
    guide = perturbed(NormalGuide, sites_in_modules)
    guide()
    unconstrain = torch.distributions.transform_to(guide.scale_constraint).inv
    parameters = dict(guide.named_parameters())
    assert len(parameters) == 2 * 4
    for site in ("real", "net.real", "net.scale", "scales"):
        loc, scale = (x.detach().double().flatten() for x in guide.loc_and_scale(site))
        n, at = len(loc), torch.cat([loc, unconstrain(scale)])

        def divergence(x, site=site, loc=loc, scale=scale, n=n):
            q = family(site)(x[:n], unconstrain.inv(x[n:]))
            return kl_divergence(family(site)(loc, scale), q).sum()

        hessian = torch.func.hessian(divergence)(at)
        torch.testing.assert_close(hessian, hessian.diag().diag(), atol=1e-12, rtol=0)
        for name, part in (("locs", hessian.diag()[:n]), ("scales", hessian.diag()[n:])):
            got = guide.inverse_fisher(f"NormalGuide.{name}.{site}")
            assert got.shape == parameters[next(iter(_like(parameters, name, site)))].shape
            torch.testing.assert_close(got.double().flatten(), 1 / part, rtol=1e-5, atol=1e-9)


def _like(parameters, kind, site):
    return (name for name in parameters if name.removesuffix("_unconstrained") == f"{kind}.{site}")


def test_supports_are_respected():
    draws = draws_of(perturbed(NormalGuide, with_interval))
    assert draws["positive"].min() > 0
    assert draws["scales"].min() > 0
    assert draws["interval"].min() > -1
    assert draws["interval"].max() < 3
    assert draws["fractions"].shape == (DRAWS, 4, 2)


@pytest.mark.parametrize(
    ("support", "real", "positive"),
    [
        (constraints.real, True, False),
        (constraints.real_vector, True, False),
        (constraints.independent(constraints.independent(constraints.real, 1), 1), True, False),
        (constraints.positive, False, True),
        (constraints.nonnegative, False, True),
        (constraints.independent(constraints.positive, 2), False, True),
        (constraints.unit_interval, False, False),
        (constraints.greater_than(0.0), False, False),
        (constraints.simplex, False, False),
    ],
)
def test_real_and_positive_supports(support, real, positive):
    assert (is_real(support), is_positive(support)) == (real, positive)


# Where a search begins


def initial_values(seed, ratings):
    pyro.set_rng_seed(seed)
    trace = poutine.trace(PMF(3, "hierarchical", "hierarchical")).get_trace(ratings)
    sites = dict(prune_subsample_sites(trace).iter_stochastic_nodes())
    return sites, {name: initial_value(site) for name, site in sites.items()}


def test_initial_values(ratings):
    sites, values = initial_values(0, ratings)
    for name, value in values.items():
        fn = sites[name]["fn"]
        assert value.shape == fn.shape()
        assert fn.support.check(value).all()
        if name.startswith("sigma"):
            torch.testing.assert_close(value, 0.4 * fn.mean)
        else:
            assert (value != fn.mean).all()
            assert (value - fn.mean).abs().max() < 0.5
    again = initial_values(0, ratings)[1]
    assert all(torch.equal(values[name], again[name]) for name in values)
    assert not torch.equal(values["W"], initial_values(1, ratings)[1]["W"])


@pytest.mark.parametrize(
    "fn",
    [dist.Cauchy(0.0, 1.0), dist.HalfCauchy(1.0), dist.Uniform(2.0, 3.0), dist.Beta(1.0, 1.0)],
)
def test_initial_value_of_a_family_without_a_mean_or_of_another_support(fn):
    value = initial_value({"name": "x", "type": "sample", "fn": fn, "infer": {}, "value": fn()})
    assert value.isfinite()
    assert fn.support.check(value)


def test_a_narrow_site_outside_all_plates_begins_within_its_prior():
    """The mean of a factor that is switched off has a prior a thousand times as narrow as usual.

    Five prior standard deviations bound 50 random numbers but once in 30,000 seeds.
    """

    def model():
        pyro.sample("wide", dist.Normal(torch.zeros(50), 2.0).to_event(1))
        pyro.sample("narrow", dist.Normal(torch.ones(50), 1e-3).to_event(1))

    torch.manual_seed(0)
    guide = NormalGuide(model, init_loc_fn=initial_value)
    guide.set_up()
    (wide, wide_scale), (narrow, scale) = (
        (x.detach() for x in guide.loc_and_scale(name)) for name in ("wide", "narrow")
    )
    assert 0 < (narrow - 1).abs().max() < 5e-4
    torch.testing.assert_close(scale, torch.full((50,), 1e-4))
    assert wide.abs().max() > 0.1
    torch.testing.assert_close(wide_scale, torch.full((50,), 0.01))
