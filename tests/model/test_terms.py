"""Terms: those that the options of a model ask for, the sites that they state, their effects."""

from itertools import product

import numpy as np
import pyro.distributions as dist
import pytest
import torch

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
from pyro_pmf.model.pmf import for_point_estimate
from pyro_pmf.model.running import is_latent, sites_of
from pyro_pmf.model.terms import (
    Bias,
    Factor,
    LogNoise,
    SumOverSeen,
    Term,
    Terms,
    TermSampler,
    terms_of,
)
from pyro_pmf.moments.expectations import unwrapped

N_USERS, N_ITEMS, K = 5, 4, 2
SIZES = {"users": N_USERS, "items": N_ITEMS}
PAIRS = Pairs(
    torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]),
    torch.tensor([0, 1, 2, 0, 2, 1, 0, 1]),
    N_USERS,
    N_ITEMS,
    dtype=torch.float64,
)
GRID = [
    {"n_factors": k, "users": users, "items": items, "biases": biases, "noise": noise}
    for k, users, items, biases, noise in product(
        (0, K),
        ("independent", "hierarchical"),
        ("independent", "hierarchical"),
        (True, False, "user", "item"),
        ("shared", "user", "item", "user_and_item"),
    )
    if k or biases
]
LIKELIHOODS = [
    NormalSigmoid(),
    NormalIdentity(),
    OrderedLogit(3),
    BernoulliLogit(),
    NegativeBinomialLog(),
]
every_option = pytest.mark.parametrize(
    "options", GRID, ids=lambda options: "-".join(map(str, options.values()))
)
every_likelihood = pytest.mark.parametrize(
    "likelihood", LIKELIHOODS, ids=lambda likelihood: type(likelihood).__name__
)

# Family and plate of every term that there can be, by its site.
KNOWN = {
    "U": (Factor, "users"),
    "V": (Factor, "items"),
    "W": (SumOverSeen, "items"),
    "Z": (SumOverSeen, "users"),
    "b": (Bias, "users"),
    "c": (Bias, "items"),
    "s": (LogNoise, "users"),
    "t": (LogNoise, "items"),
}


def sites_asked_for(options):
    """The sites of the terms that the equations of `pmf` have with these options."""
    sites = set()
    if options["n_factors"]:
        sites |= {"U", "V"}
        sites |= {"W"} if options["users"] == "hierarchical" else set()
        sites |= {"Z"} if options["items"] == "hierarchical" else set()
    sites |= {True: {"b", "c"}, "user": {"b"}, "item": {"c"}, False: set()}[options["biases"]]
    noise = {"shared": "", "user": "s", "item": "t", "user_and_item": "st"}
    return sites | set(noise[options["noise"]])


# Every term that there can be, with and without a mean.
TERMS = sorted({term for options in GRID for term in PMF(**options).terms}, key=repr)


def terms_of_family(*families):
    terms = [term for term in TERMS if isinstance(term, families)]
    ids = [f"{term.site} with a mean" if term.has_mean else term.site for term in terms]
    return pytest.mark.parametrize("term", terms, ids=ids)


def latents_of(model):
    return {name for name, site in sites_of(model, PAIRS).items() if is_latent(site)} - {"rating"}


# The terms of a model


@every_option
def test_the_terms_are_those_that_the_options_ask_for(options):
    terms = PMF(**options).terms
    sites = [term.site for term in terms]
    assert len(sites) == len(set(sites))
    assert set(sites) == sites_asked_for(options)
    for term in terms:
        assert (type(term), term.plate) == KNOWN[term.site]
        assert term.scale == f"sigma_{term.site}"
        assert term.label


@every_option
def test_what_is_said_of_each_term(options):
    hierarchical = {"U": options["users"], "V": options["items"]}
    for term in PMF(**options).terms:
        assert term.is_vector == (term.site in "UVWZ")
        assert term.in_score == (term.site in "UVbc")
        assert term.has_ratings == (term.site not in "WZ")
        assert term.has_mean == (term.site in "UV")
        without = PMF(**options, means=False).terms.of_site(term.site)
        assert without.has_mean == (hierarchical.get(term.site) == "hierarchical")
        if isinstance(term, Factor):
            assert {term.site, term.partner} == {"U", "V"}
        if isinstance(term, SumOverSeen):
            assert (term.site, term.factor) in {("W", "U"), ("Z", "V")}
        assert (term.vi_scale is None) == (term.site in "bcst")
        assert (term.map_scale is None) == (term.site in "st")


@every_option
def test_terms_are_found_by_what_they_are(options):
    terms, sites = PMF(**options).terms, sites_asked_for(options)
    for site in KNOWN:
        found = terms.of_site(site)
        assert found is None if site not in sites else found.site == site
    assert {term.site for term in terms.noise} == sites & {"s", "t"}
    if "U" not in sites:
        assert terms.factors is None
        assert terms.factor_scales == {}
        assert terms.scale_groups == []
        return
    assert [term.site for term in terms.factors] == ["U", "V"]
    shared = [f"sigma_{site}" for site in "WZ" if site in sites]
    assert terms.factor_scales == {
        "U": ["sigma_U", "sigma_W"] if "W" in sites else ["sigma_U"],
        "V": ["sigma_V", "sigma_Z"] if "Z" in sites else ["sigma_V"],
    }
    assert terms.scale_groups == [["sigma_U", "sigma_V"], *([scale] for scale in shared)]


@every_likelihood
def test_terms_do_not_depend_on_likelihood_and_priors(likelihood):
    options = GRID[-1]
    priors = Priors(sigma_U=Fixed(0.3), sigma_b=Fixed(1.0), mu=Fixed(0.0))
    changed = PMF(**options, likelihood=likelihood, priors=priors, divisor="count")
    assert changed.terms == PMF(**options).terms


def test_a_point_estimate_has_no_noise_of_rows():
    for options in GRID:
        expected = PMF(**options | {"noise": "shared"})
        assert for_point_estimate(PMF(**options)) == expected
        assert not expected.terms.noise


def test_a_model_that_states_no_terms_has_none():
    def model(ratings):
        """Have nothing to say of terms."""

    assert terms_of(model) == Terms()
    assert isinstance(terms_of(model), Terms)
    assert terms_of(PMF(2)) == PMF(2).terms
    assert terms_of(model).factors is None
    assert for_point_estimate(model) is model


# Their sites


@every_option
def test_latent_sites_are_those_of_the_terms_their_scales_and_the_scalars(options):
    model = PMF(**options)
    of_terms = {name for term in model.terms for name in (term.site, term.scale)}
    of_factors = {"tau", "mu_U", "mu_V"} if model.n_factors else set()
    assert latents_of(model) == of_terms | of_factors | {"sigma", "mu"}


@every_likelihood
@pytest.mark.parametrize("options", [GRID[0], GRID[-1], {"n_factors": K}], ids=str)
def test_a_likelihood_adds_its_own_sites_and_may_lack_the_scalars(likelihood, options):
    model = PMF(**options | {"likelihood": likelihood})
    of_terms = {name for term in model.terms for name in (term.site, term.scale)}
    of_terms |= {"tau", "mu_U", "mu_V"} if model.n_factors else set()
    if not isinstance(likelihood, OrderedLogit | BernoulliLogit):
        of_terms |= {"sigma", "mu"}
    own = {OrderedLogit: {"shares"}, BernoulliLogit: {"mu"}}.get(type(likelihood), set())
    assert latents_of(model) == of_terms | own


@every_option
def test_what_a_prior_fixes_is_no_latent(options):
    """Fixed values are sites all the same, of which a trace tells the value."""
    model, everything = PMF(**options), [f"sigma_{site}" for site in KNOWN]
    for fixed in (everything, ["sigma", "mu", "tau"], ["sigma_U", "sigma_c", "sigma_t"]):
        held = PMF(**options, priors=Priors(**{name: Fixed(0.5) for name in fixed}))
        assert latents_of(held) == latents_of(model) - set(fixed)
        sites = sites_of(held, PAIRS)
        assert all((sites[name]["value"] == 0.5).all() for name in latents_of(model) & set(fixed))


@every_option
def test_a_term_is_in_its_plate(options):
    model = PMF(**options)
    sites = sites_of(model, PAIRS)
    for term in model.terms:
        site, n_rows = sites[term.site], SIZES[term.plate]
        assert [(f.name, f.size) for f in site["cond_indep_stack"]] == [(term.plate, n_rows)]
        assert site["value"].shape == ((n_rows, K) if term.is_vector else (n_rows,))
        assert sites[term.scale]["cond_indep_stack"] == ()
        assert sites[term.scale]["value"].shape == ()


@pytest.mark.slow
@every_option
def test_rows_of_a_term_have_the_standard_deviation_of_its_scale(options):
    """About a mean that is 0, unless the term says that it has one."""
    model = PMF(**options, means=False)
    sites = sites_of(model, PAIRS)
    for term in model.terms:
        fn, sd = sites[term.site]["fn"], sites[term.scale]["value"]
        if term.site in "UW":  # users' side has the scale of each factor
            sd = sd * sites["tau"]["value"]
        assert isinstance(unwrapped(fn), dist.Normal)
        torch.testing.assert_close(fn.stddev, sd.expand(fn.stddev.shape))
        assert bool(fn.mean.any()) == term.has_mean


# Their effects


def moments(*shape):
    mean = torch.randn(shape, dtype=torch.float64)
    return mean, torch.rand(shape, dtype=torch.float64) + 0.1


@pytest.fixture
def latents():
    return {
        "U": moments(N_USERS, K),
        "V": moments(N_ITEMS, K),
        "W": moments(N_ITEMS, K),
        "Z": moments(N_USERS, K),
        "b": moments(N_USERS),
        "c": moments(N_ITEMS),
        "s": moments(N_USERS),
        "t": moments(N_ITEMS),
    }


@terms_of_family(Bias)
def test_the_effect_of_a_bias_is_the_bias(term, latents):
    for got, expected in zip(term.effect(latents), latents[term.site], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@terms_of_family(Factor)
def test_the_effect_of_factors_is_their_mean_score(term, latents):
    """By the dense matrix of all scores, averaged over the rows of the other side."""
    score = (latents["U"][0] @ latents["V"][0].T).numpy()
    other = latents["V" if term.site == "U" else "U"][0].numpy()
    mean, var = term.effect(latents)
    np.testing.assert_allclose(mean, score.mean(1 if term.site == "U" else 0))
    np.testing.assert_allclose(var, latents[term.site][1].numpy() @ other.mean(0) ** 2)
    assert mean.shape == var.shape == (SIZES[term.plate],)


@pytest.mark.statistical
def test_the_moments_of_an_effect_are_those_of_draws(latents):
    """With the other side at its mean: within five standard errors of 100,000 draws."""
    n, (mean, var) = 100_000, latents["U"]
    draws = (mean + var.sqrt() * torch.randn(n, N_USERS, K)) @ latents["V"][0].mean(0)
    effect = PMF(K).terms.of_site("U").effect(latents)
    error = 5 * (effect[1] / n).sqrt()
    assert ((draws.mean(0) - effect[0]).abs() < error).all()
    np.testing.assert_allclose(draws.var(0), effect[1], rtol=5 * (2 / n) ** 0.5)


@terms_of_family(SumOverSeen, LogNoise)
def test_other_terms_are_no_part_of_the_score_by_themselves(term, latents):
    with pytest.raises(NotImplementedError, match=f"the term {term.site} does not contribute"):
        term.effect(latents)


@pytest.mark.parametrize("noise_sd", [0.04, 1.0, 1.8])
@terms_of_family(Term)
def test_a_bias_is_measured_in_noise_and_a_factor_in_its_root(term, noise_sd):
    """The product of two factors is then measured in noise, as a bias is."""
    expected = noise_sd if isinstance(term, Bias) else noise_sd**0.5
    assert term.unit(noise_sd) == pytest.approx(expected)


# The sampler


def test_terms_that_a_model_lacks_are_not_sampled():
    def model():
        sample = TermSampler(PMF(0, biases="user").terms, Priors(), 0, PAIRS)
        assert sample.scale("c") is None
        assert sample.rows("c", None) is None
        assert sample.rows("c", torch.tensor(1.0)) is None
        assert sample.rows("U", sample.scale("U")) is None
        return sample.rows("b", sample.scale("b"))

    assert set(latents_in(model)) == {"b", "sigma_b"}


def test_tau_is_sampled_where_there_are_factors_one_for_each():
    def model(terms, priors):
        return TermSampler(terms, priors, K, PAIRS).factor_scales()

    assert model(PMF(0).terms, Priors()) is None
    sites = sites_of(model, PMF(K).terms, Priors())
    assert sites["tau"]["value"].shape == (K,)
    assert sites["tau"]["fn"].event_shape == (K,)
    fixed = sites_of(model, PMF(K).terms, Priors(tau=Fixed(0.5)))
    assert fixed["tau"]["value"].tolist() == [0.5] * K


def latents_in(model):
    return {name: site for name, site in sites_of(model).items() if is_latent(site)}


def test_rows_about_a_mean():
    hill = Term("h", "items", "hills")
    far = torch.arange(N_ITEMS, dtype=torch.float64) * 100

    def model():
        sample = TermSampler(Terms([hill]), Priors(), 0, PAIRS)
        return sample.rows("h", torch.tensor(0.1, dtype=torch.float64), means=(None, far))

    site = latents_in(model)["h"]
    torch.testing.assert_close(site["fn"].mean, far)
    assert site["fn"].stddev.unique() == 0.1


@pytest.mark.parametrize("given", ["", "UV", "b", "c", "UVb", "UVc", "bc", "UVbc"])
def test_scores_at_pairs_are_those_of_the_dense_matrix(given, latents):
    parts = {name: latents[name][0] if name in given else None for name in ("U", "V", "b", "c")}
    sample = TermSampler(Terms(), Priors(), K, PAIRS)
    score = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    score = score + parts["U"] @ parts["V"].T if "U" in given else score
    score = score + parts["b"][:, None] if "b" in given else score
    score = score + parts["c"] if "c" in given else score
    torch.testing.assert_close(sample.at_pairs(**parts), score[PAIRS.user, PAIRS.item])
