"""The Pyro-free run of a `PMF` is the run of the model in Pyro, on every configuration."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model import given as given_module
from pyro_pmf.model.given import given_latents, in_one_batch, is_plain
from pyro_pmf.model.running import given, run
from pyro_pmf.moments.expectations import parameters_of, unwrapped
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Uncertain

N_USERS, N_ITEMS, K = 4, 5, 2
LIKELIHOODS = (
    NormalSigmoid(0.25),
    NormalIdentity(0.0),
    OrderedLogit(4),
    BernoulliLogit(),
    NegativeBinomialLog(),
    NegativeBinomialLog(ceiling=5.0),
)
ROWS = "independent", "hierarchical"
NOISE = "shared", "user", "item", "user_and_item"
BIASES = True, False, "user", "item"
CONFIGURATIONS = [
    PMF(k, users=users, items=items, noise=noise, biases=biases, likelihood=likelihood)
    for k, users, items, noise, biases, likelihood in itertools.product(
        (0, K), ROWS, ROWS, NOISE, BIASES, LIKELIHOODS
    )
    if (k or biases) and (k or users == items == "independent")
] + [
    PMF(K, priors=Priors(tau=Fixed(1.0), sigma=Fixed(0.4)), divisor="count", users="hierarchical"),
    PMF(K, means=False, items="hierarchical"),
]
# A fifth of them, and those of the last lines, in which every two values of options meet.
QUICK = [*CONFIGURATIONS[:-2:5], *CONFIGURATIONS[-2:]]
HISTORY = Pairs(
    torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([1, 4, 2, 0, 3, 4]), N_USERS, N_ITEMS
)
USER, ITEM = torch.tensor([0, 1, 1, 3]), torch.tensor([4, 0, 2, 3])


def latents_of(model: PMF, kind: str) -> dict:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    latents: dict = {"mu": normal()} if model.likelihood.has_mu else {}
    positive = ["sigma"] if model.likelihood.has_sigma else []
    positive += [term.scale for term in model.terms]
    latents |= {name: normal().exp() for name in positive}
    if model.terms.factors:
        latents["tau"] = normal(K).exp()
        latents |= {name: normal(K) for name in model.mean_sites}
    for term in model.terms:
        n = N_USERS if term.plate == "users" else N_ITEMS
        latents[term.site] = normal(n, K) if term.is_vector else normal(n)
    if isinstance(model.likelihood, OrderedLogit):
        latents["shares"] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    if kind == "values":
        return latents
    of_rows = {term.site for term in model.terms}
    for name, x in latents.items():
        spread = 0.1 * torch.rand(x.shape, generator=generator)
        if name in of_rows or name.startswith("mu"):
            latents[name] = Gaussian(x, spread, frozenset({name}))
        elif name not in ("shares", "tau"):
            latents[name] = LogGaussian(x.log(), spread, frozenset({name}))
    return latents


def same(found: object, wanted: object) -> None:
    if isinstance(wanted, Uncertain):
        assert type(found) is type(wanted)
        assert found.sites == wanted.sites
        same(found.mean, wanted.mean)
        same(found.var, wanted.var)
    elif isinstance(wanted, Tensor):  # a plate may have expanded one number
        torch.testing.assert_close(*torch.broadcast_tensors(found, wanted))
    else:
        assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["values", "closed form"])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=[] if model in QUICK else pytest.mark.long)
        for model in CONFIGURATIONS
    ],
    ids=lambda model: "-".join(
        str(x)
        for x in (
            model.n_factors,
            model.users,
            model.items,
            model.noise,
            model.biases,
            type(model.likelihood).__name__,
        )
    ),
)
def test_the_statement_is_run_alike_with_and_without_pyro(model, kind):
    """Distribution of ratings, prior of each term and rows of strangers; known ids and others."""
    latents = latents_of(model, kind)
    assert is_plain(model, latents)
    for more in (0, 2):
        shape = N_USERS + more, N_ITEMS + more
        history = HISTORY.within(*shape)
        pairs = Pairs(
            torch.cat([USER, torch.full((more,), N_USERS)]),
            torch.cat([ITEM, torch.arange(more) + N_ITEMS]),
            *shape,
        )
        torch.manual_seed(1)
        sites = run(model, latents, pairs, history)
        torch.manual_seed(1)
        found = given(model, latents, pairs, history)
        wanted = parameters_of(sites["rating"]["fn"])
        assert type(found.rating) is type(sites["rating"]["fn"])
        for name, value in parameters_of(found.rating).items():
            same(value, wanted[name])
        torch.manual_seed(1)
        with_priors = given(model, latents, pairs, history, with_priors=True)
        assert with_priors.priors.keys() == {term.site for term in model.terms}
        for term in model.terms:
            prior = unwrapped(sites[term.site]["fn"])
            same(with_priors.priors[term.site].loc, prior.loc)
            same(with_priors.priors[term.site].scale, prior.scale)
            same(with_priors.values[term.site], sites[term.site]["value"])
        for name in latents.keys() - {term.site for term in model.terms}:
            same(found.values.get(name, latents[name]), sites[name]["value"])


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_draws_run_at_once_as_one_by_one(likelihood):
    model = PMF(K, users="hierarchical", items="hierarchical", likelihood=likelihood)
    draws = [latents_of(model, "values") for _ in range(3)]
    draws = [
        {k: x * s if k in ("b", "U", "mu", "sigma") else x for k, x in d.items()}
        for d, s in zip(draws, (1.0, 0.5, 2.0), strict=True)
    ]
    together = in_one_batch(model.terms, {k: torch.stack([d[k] for d in draws]) for k in draws[0]})
    pairs = Pairs(USER, ITEM, N_USERS, N_ITEMS)
    batch = given(model, together, pairs, HISTORY).rating
    assert batch.batch_shape == (3, len(USER))
    for k, draw in enumerate(draws):
        one = given(model, draw, pairs, HISTORY).rating
        torch.testing.assert_close(batch.mean[k], one.mean)
        torch.testing.assert_close(batch.variance[k], one.variance)


def test_a_fault_of_the_statement_would_be_seen(monkeypatch):
    """The comparison is of two runs: a sampler that forgets the items' bias is found out."""
    rows = given_module.GivenSampler.rows

    def forgetful(self, site, *args, **kwargs):
        return None if site == "c" else rows(self, site, *args, **kwargs)

    monkeypatch.setattr(given_module.GivenSampler, "rows", forgetful)
    with pytest.raises(AssertionError):
        test_the_statement_is_run_alike_with_and_without_pyro(CONFIGURATIONS[-1], "values")


def test_only_a_pmf_of_this_package_runs_without_pyro():
    model = PMF(K)
    latents = latents_of(model, "values")

    class Own(PMF):
        pass

    class OwnLikelihood(NormalSigmoid):
        pass

    assert is_plain(model, latents)
    assert not is_plain(Own(K), latents)
    assert not is_plain(replace(model, likelihood=OwnLikelihood()), latents)
    assert not is_plain(model, {k: x for k, x in latents.items() if k != "sigma_U"})


def test_quick_configurations_have_every_two_values_of_options():
    def pairs_of(models):
        options = ("n_factors", "users", "items", "noise", "biases", "likelihood")
        values = [[(name, str(getattr(model, name))) for name in options] for model in models]
        return {pair for own in values for pair in itertools.combinations(own, 2)}

    assert pairs_of(QUICK) == pairs_of(CONFIGURATIONS)


def test_it_needs_no_pyro(monkeypatch):
    """Neither a site, nor a plate, nor a handler is made."""
    import pyro

    for name in ("sample", "plate", "deterministic", "param"):
        monkeypatch.setattr(pyro, name, None)
    model = PMF(K, users="hierarchical", likelihood=OrderedLogit(4))
    found = given_latents(model, latents_of(model, "closed form"), HISTORY, HISTORY)
    assert found.rating.batch_shape == (len(HISTORY),)
