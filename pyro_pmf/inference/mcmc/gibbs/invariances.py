"""Moves along directions that leave all scores as they are, which ratings cannot tell apart.

Blocks that are drawn one given the other move slowly along these directions, since each holds the
other fast. A move of both at once is a draw from the prior along the direction, exact by its
Jacobian (Liu & Sabatti, Generalised Gibbs sampler and multigrid Monte Carlo, 2000).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.means import Compensation
from pyro_pmf.inference.mcmc.gibbs.scales import standardized_squares
from pyro_pmf.inference.mcmc.gibbs.slices import slice_sample
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.inference.mcmc.gibbs.working import LogisticWorking
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen

_WIDTH = 0.1  # of the first interval of the logarithm of a column's factor
_WIDTH_OF_SCALES = 0.5
_LARGEST_LOG = 100.0


def exchange_columns(state: State) -> None:
    """Multiply each column of U and W by a number, and divide this column of V and Z by it.

    Parameters
    ----------
    state : State
        The state.
    """
    u, v = state.users, state.items
    rows = u.n_latent_rows - v.n_latent_rows
    ours, theirs = (standardized_squares(state, side).tolist() for side in (u, v))
    logs = []
    for p, q in zip(ours, theirs, strict=True):

        def log_density(y: float, p: float = p, q: float = q) -> float:
            if abs(y) > _LARGEST_LOG:
                return -math.inf
            return rows * y - 0.5 * (p * math.exp(2 * y) + q * math.exp(-2 * y))

        logs.append(slice_sample(0.0, log_density, _WIDTH, state.generator))
    a = u.tau.new_tensor(logs).exp()
    u.scale_by(a)
    v.scale_by(1 / a)


def exchange_factor_scales(state: State) -> None:
    """Multiply tau and the column of U and W by a number, and divide that of V and Z by it.

    Parameters
    ----------
    state : State
        The state.
    """
    if not state.is_free(TAU):
        return
    u, v = state.users, state.items
    prior, rows = state.densities[TAU], v.n_latent_rows
    logs = []
    totals = standardized_squares(state, v).tolist()
    for tau, q in zip(u.tau.tolist(), totals, strict=True):

        def log_density(y: float, tau: float = tau, q: float = q) -> float:
            if abs(y) > _LARGEST_LOG:
                return -math.inf
            return y + prior(tau * math.exp(y)) - rows * y - 0.5 * q * math.exp(-2 * y)

        logs.append(slice_sample(0.0, log_density, 2 * rows**-0.5, state.generator))
    a = u.tau.new_tensor(logs).exp()
    u.scale_by(a)
    u.tau = u.tau * a
    v.scale_by(1 / a)


def exchange_scales(state: State) -> None:
    """Multiply all of U, W and their scales by a number, and divide V, Z and their scales.

    Parameters
    ----------
    state : State
        The state.
    """
    names = [side.scale_names(Factor, SumOverSeen) for side in (state.users, state.items)]
    if not all(state.is_free(name) for side in names for name in side):
        return
    y = _draw_exponent(state, {name: 1 - 2 * k for k in (0, 1) for name in names[k]})
    state.users.scale_by(state.users.tau.new_tensor(math.exp(y)))
    state.items.scale_by(state.items.tau.new_tensor(math.exp(-y)))


def exchange_tau(state: State) -> None:
    """Multiply tau by a number, and divide sigma_U and sigma_W by it.

    Parameters
    ----------
    state : State
        The state.
    """
    names = state.users.scale_names(Factor, SumOverSeen)
    if not (state.is_free(TAU) and all(state.is_free(name) for name in names)):
        return
    prior, taus = state.densities[TAU], state.users.tau.tolist()

    def of_tau(y: float) -> float:
        return sum(y + prior(tau * math.exp(y)) for tau in taus)

    y = _draw_exponent(state, dict.fromkeys(names, -1), of_tau)
    state.users.tau = state.users.tau * math.exp(y)


def _draw_exponent(state: State, signs: dict[str, int], rest: object = None) -> float:
    """Draw y along scales exp(sign y), apart from the latents, whose densities stay."""

    def log_density(y: float) -> float:
        if abs(y) > _LARGEST_LOG:
            return -math.inf
        total = rest(y) if callable(rest) else 0.0
        for name, sign in signs.items():
            scale = state.scales[name] * math.exp(sign * y)
            total += sign * y + state.densities[name](scale)
        return float(total)

    y = slice_sample(0.0, log_density, _WIDTH_OF_SCALES, state.generator)
    for name, sign in signs.items():
        state.scales[name] *= math.exp(sign * y)
    return y


def shift_factors(state: State, side: Side, other: Side, compensation: Compensation) -> None:
    """Add h to all rows of U and take h . V_j from the bias c_j, for either side.

    The mean of U takes part, mu_U + h, or else the effects, W + delta h: they move the prior means
    by h, or nearly so.

    Parameters
    ----------
    state : State
        The state.
    side, other : Side
        The side whose factors are shifted, and the side whose biases are.
    compensation : Compensation
        delta, and the sums that it makes.
    """
    if not (side.has(Factor) and other.has(Bias)):
        return
    delta, moved = compensation.effects, compensation.sums
    if side.mean is not None:
        delta, moved = torch.zeros_like(delta), torch.ones_like(moved)
    variance = state.scales[side.terms[Factor].scale] ** 2
    bias_variance = state.scales[other.terms[Bias].scale] ** 2
    precision = side.rows.sum((1 - moved).square().sum()) / variance
    linear = -side.rows.sum((1 - moved).T @ (side.F - side.M).double())[0] / variance
    if side.mean is not None:
        precision, linear = precision + 1 / variance, linear - side.mean.double() / variance
    elif side.has(SumOverSeen):
        variance = state.scales[side.terms[SumOverSeen].scale] ** 2
        precision = precision + side.columns.sum(delta.square().sum()) / variance
        linear = linear - side.columns.sum(delta.T @ side.W.double())[0] / variance
    unit = side.tau.double() ** -2
    columns = other.F.double()
    of_biases = other.rows.sum(columns.T @ other.b.double())
    linear = linear * unit + of_biases / bias_variance
    full = torch.diag(precision * unit) + other.rows.sum(columns.T @ columns) / bias_variance
    root, fault = torch.linalg.cholesky_ex(full)
    if bool(fault):
        return
    z = torch.linalg.solve_triangular(root, linear[:, None], upper=False)
    noise = state.items.rows.normal_like(z)  # all processes draw the same
    h = torch.linalg.solve_triangular(root.T, z + noise, upper=True)[:, 0]
    side.F = (side.F + h).to(side.F.dtype)
    if side.mean is not None:
        side.mean = (side.mean + h).to(side.F)
    side.W = (side.W + delta * h).to(side.F)
    side.M = (side.M + moved * h).to(side.F)
    other.b = (other.b - columns @ h).to(other.b)


def shift_level(state: State, side: Side) -> None:
    """Add a number to mu and take it from the biases of a side, or shift biases and cut points.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side whose biases take part.
    """
    if not side.has(Bias):
        return
    likelihood = state.likelihood
    n, total = side.rows.n, float(side.rows.sum(side.b.double().sum()))
    variance = state.scales[side.terms[Bias].scale] ** 2
    width = 2 * math.sqrt(variance / n)

    def of_biases(d: float) -> float:  # for b + d
        return -(total * d + n * d * d / 2) / variance

    if state.is_free("mu"):
        prior, mu = state.densities["mu"], state.mu
        d = slice_sample(0.0, lambda d: of_biases(-d) + prior(mu + d), width, state.generator)
        state.mu += d
        side.b = side.b - d
    elif isinstance(likelihood, LogisticWorking) and likelihood.is_ordered:
        cuts = likelihood.cutpoints

        def log_density(d: float) -> float:
            return of_biases(d) + log_prior_of_cutpoints(cuts + d)

        d = slice_sample(0.0, log_density, width, state.generator)
        state.set_cutpoints(cuts + d)
        side.b = side.b + d
        state.shift_scores(d)


def exchange_noise(state: State, side: Side) -> None:
    """Multiply scores, cut points and scales by a number, and the noise of all rows of a side.

    Levels depend on the score in units of the noise only, so no rating sees it. Without this move
    the unit of the score drifts for hundreds of sweeps.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side whose log noise takes part.
    """
    likelihood, powers = state.likelihood, score_powers(state)
    if not (isinstance(likelihood, LogisticWorking) and side.has(LogNoise) and powers):
        return
    n, total = side.rows.n, float(side.rows.sum(side.s.double().sum()))
    variance = state.scales[side.terms[LogNoise].scale] ** 2
    cuts, mu = likelihood.cutpoints, state.mu

    def log_density(y: float) -> float:
        if abs(y) > _LARGEST_LOG:
            return -math.inf
        density = -(total * y + n * y * y / 2) / variance + log_prior_of_scales(state, powers, y)
        if likelihood.is_ordered:
            density += len(cuts) * y + log_prior_of_cutpoints(cuts * math.exp(y))
        if state.is_free("mu"):
            density += y + state.densities["mu"](mu * math.exp(y))
        return density

    y = slice_sample(0.0, log_density, 2 * math.sqrt(variance / n), state.generator)
    stretch_scores(state, powers, y)
    if likelihood.is_ordered:
        state.set_cutpoints(cuts * math.exp(y))
    side.s = side.s + y
    state.shift_log_noise(y)


def score_powers(state: State) -> dict[str, float]:
    """Return the power of the unit of the score in each scale; none if one of them is fixed.

    Parameters
    ----------
    state : State
        The state.
    """
    powers = {name: 1.0 for side, _ in state.sides for name in side.scale_names(Bias)}
    for side, _ in state.sides:
        powers |= dict.fromkeys(side.scale_names(Factor, SumOverSeen), 0.5)
    fixed_mu = state.mu != 0 and not state.is_free("mu")
    free = all(state.is_free(name) for name in powers) and not fixed_mu
    return powers if free else {}


def stretch_scores(state: State, powers: dict[str, float], y: float) -> None:
    """Multiply the scores by exp(y), with all terms that they are made of, and their scales.

    Parameters
    ----------
    state : State
        The state.
    powers : dict of str to float
        See `score_powers`.
    y : float
        Logarithm of the factor.
    """
    for name, power in powers.items():
        state.scales[name] *= math.exp(power * y)
    for side, _ in state.sides:
        side.scale_by(torch.full_like(side.tau, math.exp(y / 2)))
        side.b = side.b * math.exp(y)
    state.mu *= math.exp(y)
    state.multiply_scores(math.exp(y))


def log_prior_of_scales(state: State, powers: dict[str, float], y: float) -> float:
    """Return the log prior of the scales after a stretch by exp(y), with its Jacobian.

    Parameters
    ----------
    state : State
        The state.
    powers : dict of str to float
        See `score_powers`.
    y : float
        Logarithm of the factor.
    """
    return sum(
        power * y + state.densities[name](state.scales[name] * math.exp(power * y))
        for name, power in powers.items()
    )


def log_prior_of_cutpoints(cutpoints: Tensor) -> float:
    """Return the log density of cut points whose shares are uniform on the simplex.

    The sums of shares, sigmoid(cutpoints), are then uniform among ascending numbers.

    Parameters
    ----------
    cutpoints : Tensor, shape (n_levels - 1,)
        Cut points, ascending.
    """
    cuts = cutpoints.double()
    return float((F.logsigmoid(cuts) + F.logsigmoid(-cuts)).sum())
