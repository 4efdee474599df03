"""Expected squares about a sigmoid against numerical integration, with their derivatives."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit
from torch.autograd import grad, gradcheck

from pyro_pmf.moments import quadrature
from pyro_pmf.moments.quadrature import Quadrature, gauss_hermite, sigmoid_square_distance

MEANS = [-6.0, -1.3, 0.0, 0.4, 3.0]
VALUES = [0.0, 0.35, 1.0, 1.2]
# Of the distance and of its derivatives by mean and variance, with seven nodes.
ERRORS = {
    0.0: (1e-14, 1e-14),
    1e-6: (1e-11, 1e-8),
    0.1: (1e-12, 1e-10),
    0.5: (1e-7, 2e-6),
    1.0: (5e-5, 4e-4),
    2.0: (5e-3, 1e-2),
}


@pytest.fixture(params=[1 << 15, 3])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(quadrature, "_CHUNK", request.param)


def integral(function, mean, sd):
    """E f(x), x ~ Normal(mean, sd^2)."""
    if sd == 0.0:
        return function(mean)
    return integrate.quad(
        lambda z: function(mean + sd * z) * stats.norm.pdf(z), -12, 12, epsabs=1e-13
    )[0]


def arguments(sd, dtype=torch.float64, requires_grad=True):
    grid = torch.cartesian_prod(
        torch.tensor(MEANS, dtype=dtype), torch.tensor(VALUES, dtype=dtype)
    )
    mean, value = (x.clone() for x in grid.T)
    return mean.requires_grad_(requires_grad), torch.full_like(mean, sd**2), value


def generic(mean, var, value):
    rule = Quadrature.normal(mean, var)
    return rule.expectation((value - rule.nodes.sigmoid()) ** 2)


def derivatives(function, mean, var, value):
    mean, var = mean.detach().requires_grad_(), var.detach().requires_grad_()
    return grad(function(mean, var, value).sum(), (mean, var))


@pytest.mark.slow
@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize(("sd", "errors"), ERRORS.items())
def test_distance_and_derivatives_are_the_integrals(sd, errors):
    """d/dmean E f = E f', and d/dvar E f = E f'' / 2 (Price), by SciPy."""
    mean, var, value = arguments(sd)
    got = sigmoid_square_distance(mean, var, value)
    by_mean, by_var = derivatives(sigmoid_square_distance, mean, var, value)
    for i, (m, r) in enumerate(zip(mean.tolist(), value.tolist(), strict=True)):

        def slope(x, r=r):
            y = expit(x)
            return -2 * (r - y) * y * (1 - y)

        def half_bend(x, r=r):
            y = expit(x)
            dy = y * (1 - y)
            return dy**2 - (r - y) * dy * (1 - 2 * y)

        truth = integral(lambda x, r=r: (r - expit(x)) ** 2, m, sd)
        assert got[i].item() == pytest.approx(truth, abs=errors[0])
        assert by_mean[i].item() == pytest.approx(integral(slope, m, sd), abs=errors[1])
        if sd >= 1e-6:
            wanted = integral(half_bend, m, sd)
            assert by_var[i].item() == pytest.approx(wanted, abs=max(errors[1], 1e-15 / sd))


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("sd", ERRORS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_it_is_the_generic_quadrature_in_one_pass(sd, dtype, error):
    mean, var, value = arguments(sd, dtype)
    got = sigmoid_square_distance(mean, var, value)
    assert got.dtype == dtype
    torch.testing.assert_close(got, generic(mean, var, value), atol=error, rtol=0)
    got, wanted = (derivatives(f, mean, var, value) for f in (sigmoid_square_distance, generic))
    torch.testing.assert_close(got[0], wanted[0], atol=error, rtol=0)
    # the derivative by the standard deviation is rounded, and divided by it
    torch.testing.assert_close(got[1], wanted[1], atol=error / max(sd, 1e-6), rtol=0)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 40])
def test_chunks_of_any_number_are_put_together(length, monkeypatch):
    monkeypatch.setattr(quadrature, "_CHUNK", 8)
    mean, value = torch.randn(2, length, dtype=torch.float64)
    var = torch.rand(length, dtype=torch.float64)
    got = sigmoid_square_distance(mean, var, value)
    assert got.shape == (length,)
    torch.testing.assert_close(got, generic(mean, var, value))
    torch.testing.assert_close(
        derivatives(sigmoid_square_distance, mean, var, value),
        derivatives(generic, mean, var, value),
    )


def test_strides_do_not_matter():
    mean, var, value = torch.rand(12, 3, dtype=torch.float64).unbind(1)
    assert not mean.is_contiguous()
    wanted = sigmoid_square_distance(*(x.contiguous() for x in (mean, var, value)))
    assert torch.equal(sigmoid_square_distance(mean, var, value), wanted)


def test_derivatives_by_differences():
    mean, value = torch.randn(2, 9, dtype=torch.float64)
    var = torch.rand(9, dtype=torch.float64) + 0.1
    inputs = mean.requires_grad_(), var.requires_grad_(), value
    assert gradcheck(sigmoid_square_distance, inputs, check_undefined_grad=False)


def test_one_argument_may_be_constant():
    mean, var, value = arguments(0.5)
    both = derivatives(sigmoid_square_distance, mean, var, value)
    (by_mean,) = grad(sigmoid_square_distance(mean, var, value).sum(), mean)
    var.requires_grad_()
    (by_var,) = grad(sigmoid_square_distance(mean.detach(), var, value).sum(), var)
    torch.testing.assert_close((by_mean, by_var), both, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_variance_no_error_and_a_finite_gradient(dtype):
    mean, var, value = arguments(0.0, dtype)
    got = sigmoid_square_distance(mean, var, value)
    torch.testing.assert_close(got, (value - mean.sigmoid()) ** 2)
    by_mean, by_var = derivatives(sigmoid_square_distance, mean, var, value)
    assert by_mean.isfinite().all()
    assert by_var.isfinite().all()


@pytest.mark.parametrize("sd", [0.0, 0.5, 50.0])
def test_far_out_means_are_no_trouble(sd):
    mean = torch.tensor([-1e4, -200.0, 200.0, 1e4], dtype=torch.float32)
    value = torch.tensor([0.0, 1.0, 0.0, 1.0])
    var = torch.full_like(mean, sd**2)
    assert sigmoid_square_distance(mean, var, value).tolist() == pytest.approx([0, 1, 1, 0])
    for part in derivatives(sigmoid_square_distance, mean, var, value):
        assert part.isfinite().all()


def test_second_derivatives_are_refused_not_wrong():
    mean, var, value = arguments(0.5)
    distance = sigmoid_square_distance(mean, var, value)

    def twice():
        (slope,) = grad(distance.sum(), mean, create_graph=True)
        return grad(slope.sum() + distance.sum(), mean)

    with pytest.raises((RuntimeError, TypeError)):
        twice()


@pytest.mark.slow
def test_torch_finds_no_fault_with_the_operator():
    mean, var, value = arguments(0.5, torch.float32)
    torch.library.opcheck(quadrature._sigmoid_square_distance, (mean, var, value))


# --- the rule ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nodes_and_weights_are_those_of_a_standard_normal(dtype):
    nodes, weights = gauss_hermite(dtype, torch.device("cpu"))
    assert nodes.dtype == weights.dtype == dtype
    for degree in range(14):
        moment = stats.norm.moment(degree) if degree else 1.0
        got = (weights * nodes**degree).sum().item()
        assert got == pytest.approx(moment, rel=1e-5, abs=1e-2 if dtype is torch.float32 else 1e-8)


def test_a_normal_of_any_shape():
    mean, var = torch.randn(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    rule = Quadrature.normal(mean, var)
    assert rule.nodes.shape == (len(rule.weights), 2, 3)
    torch.testing.assert_close(rule.expectation(rule.nodes), mean)
    torch.testing.assert_close(rule.expectation(rule.nodes**2), mean**2 + var)
    scalar = Quadrature.normal(mean[0, 0], var[0, 0])
    torch.testing.assert_close(scalar.expectation(scalar.nodes), mean[0, 0])


def test_no_variance_is_one_point_with_a_finite_gradient():
    mean, var = torch.randn(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    rule = Quadrature.normal(mean, var)
    assert torch.equal(rule.nodes, mean.expand_as(rule.nodes))
    by_mean, by_var = grad(rule.expectation(rule.nodes.sigmoid()).sum(), (mean, var))
    np.testing.assert_allclose(by_mean, (mean.sigmoid() * (-mean).sigmoid()).detach(), rtol=1e-5)
    assert by_var.isfinite().all()
