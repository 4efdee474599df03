"""Moments of random quantities against dense formulas, numerical integration and draws."""

import math

import numpy as np
import pytest
import torch
from integrals import expectation, number
from scipy import integrate, stats
from scipy.special import expit

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.moments.bilinear import dot, weighted_sum
from pyro_pmf.moments.gaussian import (
    Gaussian,
    LogGaussian,
    NoClosedForm,
    require_independent,
)
from pyro_pmf.moments.quadrature import Quadrature

N, M, K = 4, 3, 2
USER = torch.tensor([0, 0, 1, 1, 3])
ITEM = torch.tensor([0, 2, 1, 2, 0])
PATTERN = Pairs(USER, ITEM, N, M).pattern
DRAWS = 200_000


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def normal(*shape, site="x"):
    return Gaussian(randn(*shape), randn(*shape).exp(), frozenset({site}))


def assert_moments(x, mean, var):
    torch.testing.assert_close(x.mean, mean)
    torch.testing.assert_close(x.var, var)
    assert x.shape == mean.shape
    assert (x.dim(), x.size()) == (mean.dim(), mean.shape)


def assert_moments_of_draws(x, draws):
    """Means and variances within six standard errors: a false alarm in 10^8 per entry."""
    sd = draws.std(0)
    kurtosis = ((draws - draws.mean(0)) / sd).pow(4).mean(0)
    assert ((x.mean - draws.mean(0)).abs() <= 6 * sd / len(draws) ** 0.5).all()
    error = 6 * sd**2 * ((kurtosis - 1) / len(draws)).sqrt()
    assert ((x.var - draws.var(0)).abs() <= error).all()


def expected_sigmoid_power(power, mean, sd):
    """E sigmoid(x)^p by SciPy, which also vouches for `expectation`."""
    integral, _ = integrate.quad(
        lambda z: expit(mean + sd * z) ** power * stats.norm.pdf(z), -12, 12, epsabs=1e-13
    )
    assert integral == pytest.approx(expectation(lambda x: expit(x) ** power, mean, sd), abs=1e-11)
    return integral


# Linear operations


def test_sums_are_exact():
    x, y, t = normal(N, 1, site="x"), normal(1, M, site="y"), randn(N, M)
    assert_moments(x + y, x.mean + y.mean, x.var + y.var)
    assert (x + y).sites == {"x", "y"}
    for total in (x + t, t + x, torch.add(t, x), torch.add(x, t)):
        assert_moments(total, x.mean + t, x.var.expand(N, M))
        assert total.sites == {"x"}
    assert_moments(x + 2.0, x.mean + 2.0, x.var)


def test_indexing_and_expanding_act_on_both_moments():
    x, index = normal(2, N), torch.tensor([3, 0, 0])
    assert_moments(x[..., index], x.mean[:, [3, 0, 0]], x.var[:, [3, 0, 0]])
    assert_moments(x[..., None], x.mean[..., None], x.var[..., None])
    for expanded in (x.expand(3, 2, N), x.expand((3, 2, N)), x.expand(torch.Size((3, 2, N)))):
        assert_moments(expanded, x.mean.expand(3, 2, N), x.var.expand(3, 2, N))
        assert expanded.sites == x.sites


def test_shapes_of_a_function_are_those_of_its_entries():
    x = normal(1, N)
    rule, index = torch.sigmoid(x), torch.tensor([3, 0])
    assert_moments(rule[..., index], rule.mean[:, [3, 0]], rule.var[:, [3, 0]])
    for expanded in (rule.expand(M, N), rule.expand((M, N))):
        assert_moments(expanded, rule.mean.expand(M, N), rule.var.expand(M, N))
    assert rule.expand(1, N).sites == x.sites


def test_broadcast_tensors():
    x, t = normal(N), randn(2, 1)
    wide, tensor = torch.broadcast_tensors(x, t)
    assert_moments(wide, x.mean.expand(2, N), x.var.expand(2, N))
    assert torch.equal(tensor, t.expand(2, N))


# Products


def test_dot_of_two_gaussians():
    U, V = normal(N, K, site="U"), normal(M, K, site="V")
    u2, v2 = U.mean**2, V.mean**2
    score = dot(U, V, PATTERN)
    var = (U.var + u2) @ (V.var + v2).T - u2 @ v2.T
    assert_moments(score, (U.mean @ V.mean.T)[USER, ITEM], var[USER, ITEM])
    assert score.sites == {"U", "V"}
    u, v = (x.expand(DRAWS, *x.shape).draw() for x in (U, V))
    assert_moments_of_draws(score, (u @ v.mT)[:, USER, ITEM])


def test_dot_with_a_tensor():
    U, V = normal(N, K), normal(M, K)
    u, v = randn(N, K), randn(5, M, K)
    assert_moments(
        dot(U, v, PATTERN),
        (U.mean @ v.mT)[..., USER, ITEM],
        (U.var @ v.mT.square())[..., USER, ITEM],
    )
    assert_moments(
        dot(u, V, PATTERN), (u @ V.mean.T)[USER, ITEM], (u.square() @ V.var.T)[USER, ITEM]
    )


@pytest.mark.parametrize("given", ["b", "c", "bc"])
def test_dot_of_gaussians_with_biases(given):
    U, V = normal(N, K, site="U"), normal(M, K, site="V")
    b = normal(N, site="b") if "b" in given else None
    c = normal(M, site="c") if "c" in given else None
    score = dot(U, V, PATTERN, b, c)
    assert score.sites == {"U", "V", *given}
    assert not score.independent
    without = dot(U, V, PATTERN)
    zero = Gaussian(number(0.0), number(0.0))
    per_user = zero.expand(N) if b is None else b
    per_item = zero.expand(M) if c is None else c
    assert_moments(
        score,
        without.mean + per_user.mean[USER] + per_item.mean[ITEM],
        without.var + per_user.var[USER] + per_item.var[ITEM],
    )
    u, v, x, y = (z.expand(DRAWS, *z.shape).draw() for z in (U, V, per_user, per_item))
    assert_moments_of_draws(score, (u @ v.mT)[:, USER, ITEM] + x[:, USER] + y[:, ITEM])


def test_tensors_among_factors_and_biases():
    U, v, b, c = normal(N, K, site="U"), randn(M, K), randn(N), normal(M, site="c")
    score = dot(U, v, PATTERN, b, c)
    assert score.sites == {"U", "c"}
    assert_moments(
        score,
        (U.mean @ v.T + b[:, None] + c.mean)[USER, ITEM],
        (U.var @ v.T.square() + c.var)[USER, ITEM],
    )
    only_b = dot(randn(N, K), v, PATTERN, normal(N, site="b"))
    assert only_b.sites == {"b"}


def test_biases_without_factors():
    b, c = normal(N, site="b"), normal(M, site="c")
    score = dot(randn(N, 0), randn(M, 0), PATTERN, b, c)
    assert_moments(score, b.mean[USER] + c.mean[ITEM], b.var[USER] + c.var[ITEM])


@pytest.mark.parametrize("sites", ["UVUc", "UVbV", "UVbb", "UUbc"])
def test_factors_and_biases_that_share_a_site_are_refused(sites):
    shapes = [(N, K), (M, K), (N,), (M,)]
    U, V, b, c = (normal(*shape, site=s) for shape, s in zip(shapes, sites, strict=True))
    with pytest.raises(NoClosedForm, match="dependent"):
        dot(U, V, PATTERN, b, c)


def test_weighted_sum():
    W, weights = normal(M, K), randn(len(USER))
    matrix = torch.zeros(N, M, dtype=torch.float64).index_put((USER, ITEM), weights)
    total = weighted_sum(weights, W, PATTERN)
    assert_moments(total, matrix @ W.mean, matrix.square() @ W.var)
    assert total.sites == W.sites


def test_the_score_of_a_hierarchical_model_has_the_moments_of_its_draws():
    W, Y, V = normal(M, K, site="W"), normal(N, K, site="Y"), normal(M, K, site="V")
    b, mu = normal(N, site="b"), normal(1, site="mu")
    weights = randn(len(USER))
    matrix = torch.zeros(N, M, dtype=torch.float64).index_put((USER, ITEM), weights)
    score = mu + b[..., USER] + dot(Y + weighted_sum(weights, W, PATTERN), V, PATTERN)
    w, y, v, c, m = (x.expand(DRAWS, *x.shape).draw() for x in (W, Y, V, b, mu))
    draws = m + c[:, USER] + ((y + matrix @ w) @ v.mT)[:, USER, ITEM]
    assert_moments_of_draws(score, draws)


def test_noise_of_users_and_items_is_log_normal():
    s, t = normal(N, site="s"), normal(M, site="t")
    sigma = LogGaussian(number(-1.5), number(0.04), frozenset({"sigma"}))
    empty = torch.zeros(N, 0, dtype=torch.float64), torch.zeros(M, 0, dtype=torch.float64)
    noise = sigma * torch.exp(dot(*empty, PATTERN, s, t))
    assert noise.shape == USER.shape
    assert noise.sites == {"s", "t", "sigma"}
    mean = -1.5 + s.mean[USER] + t.mean[ITEM]
    var = 0.04 + s.var[USER] + t.var[ITEM]
    torch.testing.assert_close(noise.mean, (mean + var / 2).exp())
    torch.testing.assert_close(noise.mean_precision, (-2 * mean + 2 * var).exp())
    known = number(0.2) * torch.exp(dot(*empty, PATTERN, s, t))
    torch.testing.assert_close(known.log_mean, np.log(0.2) + mean + 1.5)
    torch.testing.assert_close(known.log_var, var - 0.04)


def test_products_and_exponentials_without_a_rule_are_refused():
    x, y = normal(N, site="x"), normal(N, site="y")
    positive = torch.exp(x)
    for wrong in (
        lambda: torch.exp(positive),
        lambda: positive * y,
        lambda: positive * torch.exp(x),
        lambda: positive * 2.0,
        lambda: 2.0 * positive,
        lambda: y * positive,
        lambda: torch.sigmoid(x) * positive,
    ):
        with pytest.raises(NoClosedForm):
            wrong()


@pytest.mark.parametrize(
    "product", [lambda x, t: x * t, lambda x, t: t * x, torch.mul, lambda x, t: torch.mul(t, x)]
)
@pytest.mark.parametrize("t", [randn(N, M), randn(N, 1), randn(M), number(-1.5), number(0.0)])
def test_a_gaussian_times_a_tensor_is_exact(product, t):
    x = normal(N, M)
    assert_moments(product(x, t), x.mean * t, x.var * t**2)
    assert product(x, t).sites == {"x"}


def test_a_gaussian_times_a_tensor_is_summed_as_independent_where_its_entries_are():
    """Of a product that repeats entries, no sum has a rule: they are one random number."""
    W, weights = normal(M, K), randn(len(USER))
    factor = randn(M, 1)
    product = weighted_sum(weights, W * factor, PATTERN)
    expected = weighted_sum(weights, Gaussian(W.mean * factor, W.var * factor**2), PATTERN)
    assert_moments(product, expected.mean, expected.var)
    with pytest.raises(NoClosedForm):
        weighted_sum(weights, normal(1, K) * factor, PATTERN)


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0, 0.25])
def test_a_gaussian_times_a_number_is_exact(factor):
    x = normal(N, M)
    for product in (x * factor, factor * x, torch.mul(x, factor)):
        assert_moments(product, x.mean * factor, x.var * factor**2)
        assert product.sites == {"x"}
        assert product.independent


# Quotients


@pytest.mark.parametrize("quotient", [lambda x, t: x / t, torch.div, lambda x, t: torch.div(x, t)])
@pytest.mark.parametrize("t", [randn(N, M), randn(N, 1), randn(M), number(-1.5)])
def test_a_gaussian_over_a_tensor_is_exact(quotient, t):
    x = normal(N, M)
    assert_moments(quotient(x, t), x.mean / t, x.var / t**2)
    assert quotient(x, t).sites == {"x"}


def test_a_quotient_that_repeats_entries_is_not_of_independent_ones():
    weights = randn(len(USER))
    assert (normal(M, K) / randn(M, 1)).independent
    assert not (normal(1, K) / randn(M, 1)).independent
    with pytest.raises(NoClosedForm):
        weighted_sum(weights, normal(1, K) / randn(M, 1), PATTERN)


def test_quotients_without_a_rule_are_refused():
    x, positive = normal(N, site="x"), torch.exp(normal(N, site="s"))
    for wrong in (
        lambda: x / normal(N, site="y"),
        lambda: x / positive,  # no Gaussian
        lambda: x / torch.sigmoid(normal(N, site="y")),
        lambda: positive / positive,
        lambda: positive / randn(N),
        lambda: randn(N) / positive,
        lambda: torch.sigmoid(x) / randn(N),
        lambda: torch.sigmoid(x) / positive,
        lambda: x / 2.0,
        lambda: 2.0 / x,
    ):
        with pytest.raises(NoClosedForm):
            wrong()


# Functions of one Gaussian


@pytest.mark.parametrize("mean", [-4.0, -0.7, 0.0, 2.5])
@pytest.mark.parametrize(
    ("sd", "error"), [(0.1, 1e-12), (0.5, 3e-8), (1.0, 3e-5), (2.0, 3e-3), (3.0, 1.5e-2)]
)
def test_moments_of_a_sigmoid(mean, sd, error):
    rule = torch.sigmoid(Gaussian(number([mean]), number([sd**2])))
    first, second = (expected_sigmoid_power(power, mean, sd) for power in (1, 2))
    assert abs(rule.mean.item() - first) < error
    assert abs(rule.var.item() - (second - first**2)) < error


@pytest.mark.parametrize(("log_mean", "log_sd"), [(0.0, 0.1), (-2.0, 0.7), (1.0, 1.2)])
def test_moments_of_a_log_gaussian(log_mean, log_sd):
    x = LogGaussian(number([log_mean]), number([log_sd**2]))
    truth = stats.lognorm(log_sd, scale=np.exp(log_mean))
    inverse = stats.lognorm(log_sd, scale=np.exp(-log_mean))
    assert_moments(x, number([truth.mean()]), number([truth.var()]))
    torch.testing.assert_close(x.mean_square, number([truth.moment(2)]))
    torch.testing.assert_close(x.mean_precision, number([inverse.moment(2)]))


def test_quadrature_of_a_gaussian_is_exact_up_to_degree_13():
    rule = Gaussian(number([0.4]), number([1.7])).quadrature()
    for degree in (1, 2, 3, 12, 13):
        moment = stats.norm(0.4, 1.7**0.5).moment(degree)
        torch.testing.assert_close(rule.expectation(rule.nodes**degree), number([moment]))


def test_quadrature_of_a_log_gaussian_is_at_its_exponentials():
    x = LogGaussian(number([-1.0]), number([0.09]), frozenset({"s"}))
    rule = x.quadrature()
    mean, square = (rule.expectation(rule.nodes**power) for power in (1, 2))
    torch.testing.assert_close(mean, x.mean)
    torch.testing.assert_close(square - mean**2, x.var)


@pytest.mark.parametrize("family", [Gaussian, LogGaussian])
def test_draws_have_the_moments_that_are_stated(family):
    x = family(number([-1.0, 0.5]), number([0.04, 0.25]))
    assert_moments_of_draws(x, x.expand(DRAWS, 2).draw())


# A LogGaussian that stands for more entries than it has moments


def wide_log_gaussian():
    """Three moments as (2, 3) entries, kept and written out."""
    log_mean, log_var = number([-1.0, 0.2, 0.5]), number([0.04, 0.25, 0.09])
    kept = LogGaussian(log_mean, log_var, frozenset({"s"})).expand(2, 3)
    return kept, LogGaussian(log_mean.expand(2, 3), log_var.expand(2, 3), frozenset({"s"}))


def test_expansion_keeps_the_moments_as_they_are():
    s = LogGaussian(number(-1.0), number(0.04), frozenset({"s"}))
    for wide in (s.expand(4), s.expand((4,)), s.expand(1, 4).expand(4, 4)[0], s.expand(4)[..., :]):
        assert wide.shape == (4,)
        assert (wide.dim(), wide.size()) == (1, (4,))
        assert wide.sites == {"s"}
    assert s.expand(1_000_000).log_mean.numel() == 1
    assert s.expand(1_000_000).mean_precision.numel() == 1


@pytest.mark.parametrize("moment", ["mean", "var"])
def test_moments_of_an_expansion_have_its_shape(moment):
    kept, written = wide_log_gaussian()
    assert kept.shape == written.shape == (2, 3)
    torch.testing.assert_close(getattr(kept, moment), getattr(written, moment))


@pytest.mark.parametrize("moment", ["mean_log", "mean_square", "mean_precision"])
def test_other_moments_of_an_expansion_broadcast_to_its_shape(moment):
    kept, written = wide_log_gaussian()
    torch.testing.assert_close(getattr(kept, moment).expand(2, 3), getattr(written, moment))


def test_quadrature_of_an_expansion():
    kept, written = (x.quadrature() for x in wide_log_gaussian())
    assert kept.nodes.shape == written.nodes.shape == (7, 2, 3)
    torch.testing.assert_close(kept.nodes, written.nodes)
    torch.testing.assert_close(kept.expectation(kept.nodes), wide_log_gaussian()[0].mean)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[1],
        lambda x: x[..., [2, 0]],
        lambda x: x[..., None],
        lambda x: x[None, 0],
        lambda x: x.expand(5, 2, 3),
        lambda x: x.expand(-1, 3),
        lambda x: x.map(lambda t: t.reshape(-1)),
        lambda x: torch.broadcast_tensors(x, torch.zeros(4, 2, 3))[0],
    ],
)
def test_changes_of_shape_of_an_expansion(change):
    kept, written = (change(x) for x in wide_log_gaussian())
    assert kept.shape == written.shape
    assert kept.sites == {"s"}
    torch.testing.assert_close(kept.mean, written.mean)
    torch.testing.assert_close(kept.var.expand(kept.shape), written.var)
    assert kept.draw().shape == kept.shape


def test_entries_of_an_expansion_are_drawn_one_by_one():
    s = LogGaussian(number(-1.0), number(0.04)).expand(DRAWS, 2)
    draws = s.draw()
    assert draws.shape == (DRAWS, 2)
    assert (draws > 0).all()
    assert_moments_of_draws(LogGaussian(*number([[-1.0, -1.0], [0.04, 0.04]])), draws)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 6 / DRAWS**0.5


# What has no closed form


def test_dependent_quantities_are_refused():
    x, U = normal(N), normal(M, K)
    tied = x + normal(N, site="y")
    for dependent in (
        lambda: x + x,
        lambda: tied + x[..., [1, 0, 2, 3]],
        lambda: dot(U, U, Pairs(USER % M, ITEM, M, M).pattern),
        lambda: require_independent(x, 1.0, LogGaussian(x.mean, x.var, x.sites)),
    ):
        with pytest.raises(NoClosedForm, match="dependent"):
            dependent()


def test_rows_that_share_a_latent_are_not_summed_as_independent():
    """The entries of x[..., [0, 0]] are one: their sum has four times the variance, not two."""
    W = normal(M, K)
    weights = torch.ones(len(USER), dtype=torch.float64)
    with pytest.raises(NoClosedForm):
        weighted_sum(weights, W[..., [0, 0, 0], :], PATTERN)


@pytest.mark.parametrize(
    "operation",
    [
        torch.sum,
        torch.relu,
        torch.square,
        lambda x: x * x,
        lambda x: x @ torch.ones(N),
        lambda x: torch.matmul(torch.ones(2, N), x),
        lambda x: x - 1.0,
        lambda x: torch.ones(N) - x,
        lambda x: torch.sub(x, 1.0),
        lambda x: -x,
        lambda x: x / 2.0,
        lambda x: torch.ones(N) / x,
        lambda x: x**2,
        lambda x: torch.stack([x, x]),
        lambda x: torch.cat([x, x]),
        lambda x: torch.where(torch.ones(N) > 0, x, x),
        lambda x: torch.add(x, x, alpha=2.0),
        lambda x: torch.add(torch.ones(N), x, alpha=2.0),
        lambda x: torch.sigmoid(torch.sigmoid(x)),
        lambda x: torch.sigmoid(x) + 1.0,
        lambda x: 1.0 + torch.sigmoid(x),
        lambda x: dot(torch.sigmoid(x)[:, None], torch.ones(M, 1), PATTERN),
        float,
    ],
)
def test_an_operation_without_a_rule_is_an_error_not_a_wrong_number(operation):
    x = normal(N)
    with pytest.raises(NoClosedForm):
        operation(x)


FAMILIES = {
    "Gaussian": lambda: normal(N),
    "LogGaussian": lambda: torch.exp(normal(N)),
    "Transformed": lambda: torch.sigmoid(normal(N)),
}
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())


@every_family
def test_methods_of_a_tensor_that_have_no_rule_are_refused_when_looked_up(make):
    x = make()
    public = {name for name in dir(torch.Tensor) if not name.startswith("_")}
    unknown = public - set(dir(x))
    assert unknown > {"sum", "sub", "sigmoid", "exp", "view", "item", "T", "ndim", "clone"}
    for name in unknown:
        with pytest.raises(NoClosedForm, match=name):
            getattr(x, name)


@every_family
@pytest.mark.parametrize(
    "name", ["sigmoidal", "probs", "_values", "_backward_hooks", "__array_ufunc__", "__fspath__"]
)
def test_names_that_no_public_method_of_a_tensor_has_are_not_there(make, name):
    """Python and Pyro ask for some of them to learn what an object is."""
    assert not hasattr(make(), name)
    with pytest.raises(AttributeError, match=name):
        getattr(make(), name)


AS_A_NUMBER = """
    1 - g; g - 1; -g; +g; abs(g); g ** 2; 2 ** g; g @ g; t @ g; 1 / g; g // 2; g % 2
    float(g); int(g); complex(g); bool(g); 1 if g else 0; len(g); reversed(g); max(g); "abc"[g]
    g == g; g != 1; g < g; g <= 1; g > 1; g >= 1; t == g; g in [1]
    math.exp(g); np.exp(g); np.asarray(g)
"""
# Calls of the methods mean and var of a tensor are refused where a model runs: see test_objective.
BEYOND_THE_RULES = """
    2 // g; 2 % g; g.__setitem__(0, 1.0); t.add(g, alpha=2)
    torch.div(g, t, rounding_mode="floor"); torch.mul(g, t, out=t); torch.exp(g, out=t)
    torch.sigmoid(g, out=t)
"""
ABOUT_THE_SHAPE = "g.size(-1); g.size(dim=0)"


def expressions(text):
    return [part.strip() for line in text.strip().splitlines() for part in line.split(";")]


def evaluated(expression, g):
    return eval(expression, {"g": g, "t": torch.ones(N), "torch": torch, "np": np, "math": math})


@every_family
@pytest.mark.parametrize("expression", expressions(AS_A_NUMBER))
def test_uses_as_a_number_are_refused(make, expression):
    with pytest.raises(NoClosedForm):
        evaluated(expression, make())


@pytest.mark.parametrize("expression", expressions(BEYOND_THE_RULES))
def test_uses_that_a_rule_does_not_cover_are_refused(expression):
    with pytest.raises(NoClosedForm):
        evaluated(expression, normal(N))


@pytest.mark.parametrize("question", expressions(ABOUT_THE_SHAPE))
def test_questions_about_the_shape_are_answered_or_refused(question):
    g = normal(N)
    try:
        answer = evaluated(question, g)
    except NoClosedForm:
        return
    assert answer == evaluated(question, g.mean)


@every_family
def test_rows_are_iterated_over(make):
    rows = list(make())
    assert [row.shape for row in rows] == [()] * N


def test_random_weights_are_refused():
    with pytest.raises(NoClosedForm):
        weighted_sum(normal(len(USER)), torch.ones(M, K, dtype=torch.float64), PATTERN)


def test_sums_with_a_log_gaussian_are_refused():
    x, s = normal(N), LogGaussian(torch.zeros(N), torch.ones(N), frozenset({"s"}))
    for total in (lambda: s + 1.0, lambda: x + s, lambda: s + x, lambda: torch.sigmoid(s)):
        with pytest.raises(NoClosedForm):
            total()
    assert isinstance(s.quadrature(), Quadrature)


def test_gradients_reach_both_moments():
    """d E sigmoid(x) / d mean = E sigmoid'(x), and d / d var = E sigmoid''(x) / 2 (Price)."""
    mean, var = number([0.4]).requires_grad_(), number([0.36]).requires_grad_()
    torch.sigmoid(Gaussian(mean, var)).mean.sum().backward()
    slope = expectation(lambda x: expit(x) * expit(-x), 0.4, 0.6)
    bend = expectation(lambda x: expit(x) * expit(-x) * (1 - 2 * expit(x)), 0.4, 0.6)
    assert mean.grad.item() == pytest.approx(slope, abs=1e-6)
    assert var.grad.item() == pytest.approx(bend / 2, abs=1e-6)


def test_a_point_without_variance_has_a_finite_gradient():
    """A tensor factor enters `dot` with variance zero, and sqrt has no derivative there."""
    u, v = torch.zeros(N, K, dtype=torch.float64), normal(M, K)
    mean = v.mean.clone().requires_grad_()
    var = v.var.clone().requires_grad_()
    torch.sigmoid(dot(u, Gaussian(mean, var), PATTERN)).mean.sum().backward()
    assert mean.grad.isfinite().all()
    assert var.grad.isfinite().all()
