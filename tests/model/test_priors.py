"""Priors: what they refuse, print and draw."""

from dataclasses import FrozenInstanceError, fields

import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyro_pmf.errors import PMFError
from pyro_pmf.model.priors import FactorHalfNormal, Fixed, HalfNormal, LogNormal, Normal, Priors

NAMES = [f.name for f in fields(Priors)]
MIXED = Priors(mu=Normal(0.5, 2.0), sigma=Fixed(0.2), sigma_U=LogNormal(0.3, 0.7))
NO_SCALES = [0.0, -1.0, float("nan"), float("inf")]


@pytest.mark.parametrize("bad", NO_SCALES)
@pytest.mark.parametrize(
    "prior",
    [
        HalfNormal,
        FactorHalfNormal,
        lambda bad: Normal(0.0, bad),
        lambda bad: LogNormal(1.0, bad),
        lambda bad: LogNormal(bad, 1.0),
    ],
    ids=["HalfNormal", "FactorHalfNormal", "Normal", "LogNormal scale", "LogNormal median"],
)
def test_a_scale_must_be_positive_and_finite(prior, bad):
    with pytest.raises(PMFError, match=f"positive number, not {bad}"):
        prior(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("prior", [Fixed, lambda bad: Normal(bad, 1.0)], ids=["Fixed", "Normal"])
def test_a_location_must_be_finite(prior, bad):
    with pytest.raises(PMFError, match="must be finite"):
        prior(bad)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mu"])
@pytest.mark.parametrize("bad", [Normal(0.0, 1.0), Fixed(0.0), Fixed(-0.3)], ids=repr)
def test_a_standard_deviation_must_be_positive(name, bad):
    with pytest.raises(PMFError, match=f"{name} is a standard deviation"):
        Priors(**{name: bad})


@pytest.mark.parametrize("bad", [0.3, None, HalfNormal, "HalfNormal(1)"])
@pytest.mark.parametrize("name", NAMES)
def test_a_prior_must_be_a_prior(name, bad):
    with pytest.raises(PMFError, match=f"{name}: give a prior"):
        Priors(**{name: bad})


@pytest.mark.parametrize("mu", [Fixed(0.0), Fixed(-2.0), HalfNormal(1.0)], ids=repr)
def test_the_mean_score_may_be_any_number(mu):
    assert Priors(mu=mu).mu is mu


@pytest.mark.parametrize("priors", [Priors(), MIXED], ids=["default", "mixed"])
def test_repr_and_dict_say_all(priors):
    assert eval(repr(priors)) == priors
    assert all(f"{name}=" in repr(priors) for name in NAMES)
    data = priors.to_dict()
    assert list(data) == NAMES
    assert Priors.from_dict(data) == priors


def test_dict_is_plain_data():
    assert MIXED.to_dict()["sigma_U"] == {"family": "LogNormal", "median": 0.3, "scale": 0.7}


@pytest.mark.parametrize(
    "thing",
    [Priors(), Normal(0.0, 1.0), HalfNormal(1.0), FactorHalfNormal(1.0), Fixed(1.0)],
)
def test_they_are_frozen_and_hashable(thing):
    name = fields(thing)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(thing, name, 3.0)
    assert {thing: 1}[thing] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["scalar", "vector"])
@pytest.mark.parametrize(
    "prior", [Normal(0.5, 2.0), HalfNormal(0.5), LogNormal(0.3, 0.7), Fixed(0.2)], ids=repr
)
def test_draws_are_like_the_tensor_given(prior, shape, dtype, device):
    like = torch.zeros(shape, dtype=dtype, device=device)
    with pyro.validation_enabled(device != "meta"):  # a meta tensor has no values to check
        drawn = prior.draw("x", like)
        assert (drawn.dtype, drawn.device, drawn.shape) == (dtype, like.device, shape)
        value = prior.distribution(like).sample()
        assert (value.dtype, value.device) == (dtype, like.device)


def test_the_entries_of_a_vector_are_independent():
    """The site of tau is one event, whose log density is the sum of its entries'."""
    like = torch.zeros(3, dtype=torch.float64)
    trace = poutine.trace(lambda: HalfNormal(0.7).draw("tau", like)).get_trace()
    trace.compute_log_prob()
    drawn = trace.nodes["tau"]["value"].numpy()
    assert len(set(drawn.tolist())) == 3
    wanted = stats.halfnorm(scale=0.7).logpdf(drawn).sum()
    assert float(trace.nodes["tau"]["log_prob"]) == pytest.approx(wanted)


@pytest.mark.parametrize("n_factors", [0, 1, 2, 16])
def test_priors_of_factors_know_their_number(n_factors):
    """K sigma_U^2 sigma_V^2, the variance of U_i . V_j, has one prior for every K."""
    priors = Priors(sigma_V=LogNormal(0.3, 0.7))
    wanted = HalfNormal(1 / max(n_factors, 1) ** 0.25)
    for name in ("sigma_U", "sigma_W", "sigma_Z"):
        assert priors.of(name, n_factors) == wanted
    assert priors.of("sigma_V", n_factors) == LogNormal(0.3, 0.7)
    assert priors.of("tau", n_factors) == HalfNormal(1.0)
    assert priors.of("sigma_b", n_factors) == HalfNormal(1.0)


@pytest.mark.parametrize(
    ("prior", "truth"),
    [
        (Normal(0.5, 2.0), stats.norm(0.5, 2.0)),
        (HalfNormal(0.5), stats.halfnorm(scale=0.5)),
        (LogNormal(0.3, 0.7), stats.lognorm(0.7, scale=0.3)),
    ],
    ids=lambda x: repr(x) if "dist" not in repr(x) else "",
)
def test_densities(prior, truth):
    x = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    wanted = torch.from_numpy(truth.logpdf(x.numpy()))
    torch.testing.assert_close(prior.distribution(x).log_prob(x), wanted)


def test_a_fixed_value_is_not_a_latent_site():
    trace = poutine.trace(lambda: Fixed(0.2).draw("x", torch.zeros(()))).get_trace()
    assert trace.nodes["x"]["value"] == 0.2
    assert not trace.stochastic_nodes
    trace = poutine.trace(lambda: HalfNormal(0.2).draw("x", torch.zeros(()))).get_trace()
    assert trace.stochastic_nodes == ["x"]
