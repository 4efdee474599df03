"""Convergence of Markov chains, for many quantities at once.

Vehtari, Gelman, Simpson, Carpenter & Bürkner, Rank-normalization, folding, and localization,
Bayesian Analysis 2021. ArviZ has the same numbers, one quantity at a time: 3 ms each, and seconds
to import. Fits judge their chains by hundreds of quantities, so they are computed together here.
"""

from __future__ import annotations

import numpy as np
import scipy
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri

FEWEST_DRAWS = 4  # of a chain: each half needs a variance
_TAILS = 0.05, 0.95


def r_hat(draws: np.ndarray) -> np.ndarray:
    """Return the rank-normalized split R-hat, the larger of bulk and tails.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, n)
        Draws of n quantities.

    Returns
    -------
    ndarray, shape (n,)
        About 1 for chains that have mixed. One chain is compared with itself, half by half. NaN
        for chains of fewer than 4 draws, and for quantities that never change or are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(2, 500, 2))
    >>> draws[1, :, 1] += 1  # of the second quantity, the chains lie apart
    >>> r_hat(draws).round(1).tolist()
    [1.0, 1.2]
    """
    if draws.shape[1] < FEWEST_DRAWS:
        return np.full(draws.shape[2], np.nan)
    halves = _halves(np.where(np.isfinite(draws), draws, np.nan))
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_r_hat(_normalized(halves)), _r_hat(_normalized(folded)))


def ess_bulk(draws: np.ndarray) -> np.ndarray:
    """Return the effective sample size in the bulk: of rank-normalized draws.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, n)
        Draws of n quantities.

    Returns
    -------
    ndarray, shape (n,)
        Number of independent draws with the same error, see `r_hat` for NaN.
    """
    return _ess(_normalized(_halves(draws)))


def ess_tail(draws: np.ndarray) -> np.ndarray:
    """Return the effective sample size in the tails: the smaller of the 5% and 95% quantiles.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, n)
        Draws of n quantities.

    Returns
    -------
    ndarray, shape (n,)
        See `ess_bulk`.
    """
    ends = np.quantile(draws, _TAILS, axis=(0, 1))
    low, high = (_ess(_halves((draws <= end).astype(float))) for end in ends)
    return np.where(np.isfinite(draws).all((0, 1)), np.minimum(low, high), np.nan)


def ess_mean(draws: np.ndarray) -> np.ndarray:
    """Return the effective sample size for the mean.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, n)
        Draws of n quantities.

    Returns
    -------
    ndarray, shape (n,)
        See `ess_bulk`.
    """
    return _ess(_halves(draws))


def mcse_mean(draws: np.ndarray) -> np.ndarray:
    """Return the Monte Carlo standard error of the mean.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, n)
        Draws of n quantities.

    Returns
    -------
    ndarray, shape (n,)
        In the unit of each quantity; NaN as for `r_hat`, and 0 for a quantity that never changes.
    """
    return draws.std(axis=(0, 1), ddof=1) / np.sqrt(ess_mean(draws))


def _halves(draws: np.ndarray) -> np.ndarray:
    """Cut each chain in two; the middle draw of an odd number belongs to neither half."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _normalized(draws: np.ndarray) -> np.ndarray:
    """Replace draws by normal scores of their ranks; a quantity that is not finite becomes NaN."""
    ranks = scipy.stats.rankdata(draws.reshape(-1, draws.shape[2]), axis=0).reshape(draws.shape)
    scores = ndtri((ranks - 3 / 8) / (draws.shape[0] * draws.shape[1] + 1 / 4))
    return np.where(np.isfinite(draws).all((0, 1)), scores, np.nan)


def _r_hat(draws: np.ndarray) -> np.ndarray:
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(0)
    between = draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.sqrt((n - 1) / n + between / within)
    return np.where(within > 0, found, np.nan)


def _ess(draws: np.ndarray) -> np.ndarray:
    """Return the effective sample size by Geyer's initial monotone sequence."""
    n_chains, n, n_quantities = draws.shape
    if n < FEWEST_DRAWS // 2:
        return np.full(n_quantities, np.nan)
    centred = draws - draws.mean(1, keepdims=True)
    spectrum = rfft(centred, next_fast_len(2 * n, real=True), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(0)
    covariance = irfft(power, next_fast_len(2 * n, real=True), axis=0)[:n] / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + draws.mean(1).var(0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = 1 - (within - covariance) / total
    correlation[0] = 1
    even = correlation[: n // 2 * 2 : 2]
    pairs = even + correlation[1::2]  # sums of two neighbours are positive for a chain
    last = max(0, (n - 1) // 2 - 1)
    ended = pairs[: last + 1] <= 0
    stop = np.where(ended.any(0), ended.argmax(0), last)
    falling = np.minimum.accumulate(pairs, axis=0)
    before = np.arange(len(pairs))[:, None] < stop
    at = stop[None]
    next_even, next_pair = (np.take_along_axis(x, at, 0)[0] for x in (even, pairs))
    rest = np.where((next_even > 0) | (next_pair >= 0), next_even, 0)
    time = -1 + 2 * np.where(before, falling, 0).sum(0) + rest
    size = n_chains * n
    found = size / np.maximum(time, 1 / np.log10(size))
    found = np.where(np.ptp(draws, axis=(0, 1)) < np.finfo(float).resolution, size, found)
    return np.where(np.isnan(draws).any((0, 1)), np.nan, found)
