"""Scores of every pair of some users and items at once, by their mean and their variance.

A prediction of listed pairs runs the model on them. To compare all items for a user, the moments
of U_i . V_j + b_i + c_j of whole rows are products of two matrices, which is a hundred times as
fast. They hold all that a closed form says of a rating: its expectation is a smooth function of
the mean and the sd of the score and of the log of the noise (`Interpolated`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.running import given
from pyro_pmf.model.running import rating_of as given_rating
from pyro_pmf.model.terms import Bias, Factor, LogNoise, Plate
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value

Moments = tuple[Tensor, Tensor]  # mean and variance
_NODES = 129, 17, 13  # of a table over the mean of a score, its sd, and the log of the noise
_MARGIN = 0.05  # beyond the moments of the first pairs, for those of later ones; in their range
_SAME = 1e-6  # a moment that varies less is one number
_TILE = 512, 256  # users and items whose scores are summed over draws, in a processor's cache
_THREADED = 16  # torch shares the work of an interpolation out by parts of a batch


class Side(NamedTuple):
    """What the rows of some users, or items, contribute to scores: means and variances.

    Attributes
    ----------
    factors : tuple of Tensor, shape (n, n_factors)
        Without factors, ``n_factors`` is 0.
    bias, log_noise : tuple of Tensor, shape (n,)
        Zero where the model lacks the term.
    """

    factors: Moments
    bias: Moments
    log_noise: Moments

    def rows(self, index: Tensor) -> Side:
        """Return some rows; ``index`` is a Tensor, int64, shape (n_rows,)."""
        axes = -2, -1, -1
        return Side(
            *(
                (mean.index_select(axis, index), var.index_select(axis, index))
                for axis, (mean, var) in zip(axes, self, strict=True)
            )
        )


class Scores:
    """The scores of a `PMF`, given values or distributions of its latents.

    Parameters
    ----------
    model : PMF
        The model.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        Latents with a row for each user and item of the matrix of ``history`` (`completed`).
    history : Pairs
        The pairs with I_ij = 1, in a matrix that may have more users and items.

    Attributes
    ----------
    users, items : Side
        The rows of every user and item of the matrix.
    mu : tuple of Tensor, shape ()
        Mean and variance of the mean score.
    sigma : tuple of Tensor, shape ()
        Mean and variance of the log of the noise that all ratings share.
    own : dict of str to Tensor
        The likelihood's own latents.
    """

    def __init__(self, model: PMF, latents: Mapping[str, Value], history: Pairs) -> None:
        self.mu, self.sigma, self.own = _shared(model, latents, history)
        self.users = _side(model, latents, "users", history)
        self.items = _side(model, latents, "items", history)

    def dense(self, user: Tensor, item: Tensor) -> Dense:
        """Return the moments of the scores of each of some users with each of some items.

        Parameters
        ----------
        user, item : Tensor, int64
            Indices of users and of items.
        """
        users, items = self.users.rows(user), self.items.rows(item)
        log, log_var = users.log_noise
        logs = (log + self.sigma[0], log_var + self.sigma[1]), items.log_noise
        return Dense(self.moments(users, items), *logs)

    def moments(self, users: Side, items: Side) -> Moments:
        """Return mean and variance of the score of each of some users with each of some items.

        Parameters
        ----------
        users, items : Side
            Some rows of `users` and of `items`.

        Returns
        -------
        mean, var : Tensor, shape (n_users, n_items)
        """
        (U, U_var), (b, b_var), _ = users
        (V, V_var), (c, c_var), _ = items
        mean = torch.addmm(c, U, V.T).add_(b[:, None]).add_(self.mu[0])
        left, right = torch.cat([U_var, U**2], 1), torch.cat([V**2 + V_var, V_var], 1)
        return mean, torch.addmm(c_var, left, right.T).add_(b_var[:, None]).add_(self.mu[1])


class DrawnScores:
    """The scores of a `PMF` in each of some draws of its latents.

    Parameters
    ----------
    model : PMF
        The model.
    latents : mapping of str to Tensor, shape (n_draws, ...)
        Draws, with a row for each user and item of the matrix of ``history`` (`completed`).
    history : Pairs
        The pairs with I_ij = 1, in a matrix that may have more users and items.

    Attributes
    ----------
    users, items : Side
        The rows of every user and item of the matrix, after a first dimension of draws.
    mu, log_sigma : Tensor, shape (n_draws,)
        Mean score, and the log of the noise that all ratings share.
    own : dict of str to Tensor
        Means of the likelihood's own latents.
    """

    def __init__(self, model: PMF, latents: Mapping[str, Tensor], history: Pairs) -> None:
        n_draws = len(next(iter(latents.values())))
        each = [
            _shared(model, {site: x[k] for site, x in latents.items()}, history)
            for k in range(n_draws)
        ]
        self.mu = torch.stack([mu for (mu, _), _, _ in each])
        self.log_sigma = torch.stack([log for _, (log, _), _ in each])
        self.own = {
            name: torch.stack([own[name] for _, _, own in each]).mean(0) for name in each[0][2]
        }
        self.users = _side(model, latents, "users", history, (n_draws,))
        self.items = _side(model, latents, "items", history, (n_draws,))

    def dense(self, user: Tensor, item: Tensor) -> Dense:
        """Return moments over draws, as `Scores.dense`.

        Scores are summed for a tile of users and items at a time, which stays in a processor's
        cache while all draws are added.
        """
        mean = self.mu.new_empty(len(user), len(item))
        var = torch.empty_like(mean)
        for some_users in torch.arange(len(user)).split(_TILE[0]):
            (U, _), (b, _), _ = self.users.rows(user[some_users])
            b = b + self.mu[:, None]
            left = torch.cat([U, b[..., None], torch.ones_like(b)[..., None]], -1)
            rows = slice(int(some_users[0]), int(some_users[-1]) + 1)
            for some_items in torch.arange(len(item)).split(_TILE[1]):
                (V, _), (c, _), _ = self.items.rows(item[some_items])
                right = torch.cat([V, torch.ones_like(c)[..., None], c[..., None]], -1)
                columns = slice(int(some_items[0]), int(some_items[-1]) + 1)
                mean[rows, columns], var[rows, columns] = _moments_of_products(left, right.mT)
        s = self.users.log_noise[0].index_select(1, user) + self.log_sigma[:, None]
        t = self.items.log_noise[0].index_select(1, item)
        logs = [(x.mean(0), x.var(0, unbiased=False)) for x in (s, t)]
        return Dense((mean, var), *logs)


def _moments_of_products(left: Tensor, right: Tensor) -> Moments:
    """Return mean and variance over draws of matrix products.

    Parameters
    ----------
    left, right : Tensor, shape (n_draws, n, k) and (n_draws, k, m)
        Factors of each draw.

    Returns
    -------
    mean, var : Tensor, shape (n, m)
    """
    product = left.new_empty(left.shape[1], right.shape[2])
    total, squares = torch.zeros_like(product), torch.zeros_like(product)
    for a, b in zip(left, right, strict=True):
        torch.mm(a, b, out=product)
        total.add_(product)
        squares.addcmul_(product, product)
    mean = total.div_(len(left))
    return mean, squares.div_(len(left)).addcmul_(mean, mean, value=-1).clamp_(min=0)


class Dense(NamedTuple):
    """Moments of the scores of some users with some items, and of the logs of their noise.

    Attributes
    ----------
    score : tuple of Tensor, shape (n_users, n_items)
        Mean and variance of each score.
    user_log, item_log : tuple of Tensor, shape (n_users,) and (n_items,)
        Their sums are the mean and the variance of the log of a pair's noise.
    """

    score: Moments
    user_log: Moments
    item_log: Moments


class Interpolated:
    """A function of the distribution of a rating, interpolated over the moments of its score.

    Parameters
    ----------
    model : PMF
        The model, for its likelihood.
    own : mapping of str to Tensor
        The likelihood's own latents.
    function : callable
        ``function(fn)`` takes a distribution with random parameters, on the model scale, of batch
        shape (n,), and returns a Tensor of shape (n,).
    dtype : torch.dtype
        Floating-point type of the moments.
    """

    def __init__(
        self,
        model: PMF,
        own: Mapping[str, Any],
        function: Callable[[Distribution], Tensor],
        dtype: torch.dtype,
    ) -> None:
        self._model, self._own, self._function = model, own, function
        self._dtype = dtype
        self._ends: list[tuple[float, float]] | None = None

    def at(self, dense: Dense) -> Tensor:
        """Return the function at every pair.

        The table has 129 x 17 x 13 nodes, from the least to the largest mean and sd of a score and
        log of a noise, and two nodes in the variance of this log. Over levels and stars, the error
        of a mean is below a hundredth of the scale; a caller that needs more computes the pairs
        that matter exactly.

        Parameters
        ----------
        dense : Dense
            Moments of the scores.

        Returns
        -------
        Tensor, shape (n_users, n_items)
        """
        mean, sd = dense.score[0], dense.score[1].sqrt()
        (user, user_var), (item, item_var) = dense.user_log, dense.item_log
        ends = mean.aminmax(), sd.aminmax(), _ends_of_sum(user, item)
        variances = _ends_of_sum(user_var, item_var)
        self._cover([(float(low), float(high)) for low, high in (*ends, variances)])
        place = torch.empty(*mean.shape, 3, dtype=mean.dtype)
        axes = self._axes
        for k, x in enumerate((mean, sd)):
            torch.mul(x, _per_node(axes[k]), out=place[..., k]).sub_(_offset(axes[k]))
        step = _per_node(axes[2])
        torch.add((user * step - _offset(axes[2]))[:, None], item * step, out=place[..., 2])
        found = _at_places(self._tables, place)
        if len(found) == 1:
            return found[0]
        least, share = axes[3][0], _per_node(axes[3]) / 2
        return found[0].add_(
            found[1].sub_(found[0]).mul_(((user_var - least) * share)[:, None] + item_var * share)
        )

    def _cover(self, ends: list[tuple[float, float]]) -> None:
        """Make the tables, unless those of earlier pairs hold all moments between these ends."""
        if self._ends is not None:
            known = zip(ends, self._ends, strict=True)
            if all(low >= a and high <= b for (low, high), (a, b) in known):
                return
            ends = [
                (min(low, a), max(high, b))
                for (low, high), (a, b) in zip(ends, self._ends, strict=True)
            ]
        wider = [_MARGIN * (high - low) for low, high in ends]
        self._ends = [(low - w, high + w) for (low, high), w in zip(ends, wider, strict=True)]
        for k in (1, 3):  # an sd and a variance
            self._ends[k] = max(self._ends[k][0], 0.0), self._ends[k][1]
        self._axes = [
            torch.linspace(low, high, n if high - low > _SAME else 1).to(self._dtype)
            for (low, high), n in zip(self._ends, (*_NODES, 2), strict=True)
        ]
        self._tables = torch.stack([self._table(self._axes[:3], x) for x in self._axes[3]])

    def _table(self, axes: list[Tensor], log_var: Tensor) -> Tensor:
        mean, sd, log = (x.flatten() for x in torch.meshgrid(*axes, indexing="ij"))
        fn = rating_of(self._model, self._own, (mean, sd**2), (log, log_var.expand(log.shape)))
        shape = [len(axis) for axis in axes]
        values = self._function(fn).to(mean.dtype).nan_to_num()
        return values.reshape(shape).permute(2, 1, 0)


def _ends_of_sum(a: Tensor, b: Tensor) -> Moments:
    """Return the least and the largest sum of an entry of each."""
    return a.min() + b.min(), a.max() + b.max()


def _per_node(axis: Tensor) -> float:
    """Return the factor that maps an axis to (-1, 1), as `grid_sample` has it."""
    return 2 / float(axis[-1] - axis[0]) if len(axis) > 1 else 0.0


def _offset(axis: Tensor) -> float:
    return float(axis[0]) * _per_node(axis) + 1


def _at_places(tables: Tensor, place: Tensor) -> Tensor:
    """Interpolate tables; users are a batch in parts, which torch's threads share.

    Parameters
    ----------
    tables : Tensor, shape (n_tables, n_logs, n_sds, n_means)
        Values at the nodes.
    place : Tensor, shape (n_users, n_items, 3)
        Places in (-1, 1), by mean, sd and log.

    Returns
    -------
    Tensor, shape (n_tables, n_users, n_items)
    """
    found = torch.empty(len(tables), *place.shape[:2], dtype=place.dtype)
    size = -(-len(place) // _THREADED)
    whole = len(place) // size * size
    for rows, n in ((slice(0, whole), whole // size), (slice(whole, None), 1)):
        there = place[rows]
        if len(there):
            parts = F.grid_sample(
                tables.expand(n, *tables.shape),
                there.reshape(n, 1, -1, place.shape[1], 3),
                padding_mode="border",
                align_corners=True,
            )
            found[:, rows] = parts[:, :, 0].transpose(0, 1).reshape(len(tables), *there.shape[:2])
    return found


def rating_of(
    model: PMF, own: Mapping[str, Any], score: Moments, log_sigma: Moments
) -> Distribution:
    """Return the distribution of ratings, given moments of their scores and of their log noise.

    Parameters
    ----------
    model : PMF
        The model, for its likelihood.
    own : mapping of str to Tensor
        The likelihood's own latents.
    score, log_sigma : tuple of Tensor, shape (n,)
        Mean and variance.

    Returns
    -------
    Distribution
        On the model scale, of batch shape (n,), with random parameters.
    """
    return given_rating(model, Gaussian(*score), LogGaussian(*log_sigma), own)


def moments_of(value: Value) -> Moments:
    """Return mean and variance of a quantity; the variance of a known one is 0."""
    if isinstance(value, Tensor):
        return value, torch.zeros_like(value)
    return value.mean, value.var


def _shared(
    model: PMF, latents: Mapping[str, Value], history: Pairs
) -> tuple[Moments, Moments, dict[str, Any]]:
    """Return what all scores share: `Scores.mu`, `Scores.sigma` and `Scores.own`."""
    shape = history.n_users, history.n_items
    one = Pairs(history.user[:1], history.item[:1], *shape, dtype=history.dtype)
    at = given(model, latents, one, history)
    assert at.arguments is not None  # a PMF calls its likelihood
    zero = torch.zeros((), dtype=history.dtype)
    mu = moments_of(at.values["mu"]) if "mu" in at.values else (zero, zero)
    sigma = at.values.get("sigma", zero + 1)
    if isinstance(sigma, LogGaussian):
        return mu, (sigma.log_mean, sigma.log_var), at.arguments[2]
    return mu, (cast(Tensor, sigma).log(), zero), at.arguments[2]


def _side(
    model: PMF,
    values: Mapping[str, Value],
    plate: Plate,
    history: Pairs,
    lead: tuple[int, ...] = (),
) -> Side:
    """Return the rows of a plate, each with leading dimensions."""
    size = {"users": history.n_users, "items": history.n_items}[plate]
    none = torch.zeros((), dtype=history.dtype).expand(*lead, size)
    kinds: dict[type, Moments] = {
        Factor: (none[..., None].expand(*lead, size, 0), none[..., None].expand(*lead, size, 0)),
        Bias: (none, none),
        LogNoise: (none, none),
    }
    for term in model.terms:
        if term.plate == plate and type(term) in kinds:
            kinds[type(term)] = moments_of(values[term.site])
    return Side(*kinds.values())
