"""Which ratings of a user raised or lowered a prediction, and by how much.

Given the items, the row x = (U_i, b_i) of a user has the log density

    -(x - m)' P (x - m) / 2 + sum_j h_j(s_j),   s_j = (V_j, 1) . x + mu + c_j,

with P and m the precision and the mean of its prior and h_j the expected log density of rating j.
Its curvature is A = P + sum_j B_j with B_j = -h_j'' E[(V_j, 1)(V_j, 1)']. Without rating j, one
Newton step moves x by (A - B_j)^-1 (P d_j - G_j), where G_j is the gradient of h_j, and d_j is the
shift of m: the prior mean of a hierarchical user is a sum over the items rated. The step is exact
if the likelihood is Normal in the score. The items, the noise and the scales are held.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.errors import PMFError
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import Bias, Factor
from pyro_pmf.moments.gaussian import LogGaussian
from pyro_pmf.moments.stacking import mixture_of
from pyro_pmf.prediction.choosing import rows_of
from pyro_pmf.prediction.dense import Moments, Scores, Side, moments_of, rating_of
from pyro_pmf.prediction.mixture import predictive_of
from pyro_pmf.prediction.rated import complete, completed, sums_of

_DRAWS = 100  # of a posterior of draws; each takes a step of its own
_STEPS = 20  # of Newton's method, from a drawn row to the mode of its density
_CLOSE = 1e-8


def explain(learned: Learned, user: Hashable, item: Hashable) -> pd.DataFrame:
    """Return how much each rating of a user changed a prediction.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    user, item : id
        As for `Posterior.explain`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.explain`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.explain`.
    """
    if type(learned.model) is not PMF:
        raise PMFError(
            "explain follows ratings through the terms of a PMF, and this model is another: "
            "compare the predictions of fits with and without a rating."
        )
    learned.require_training_ratings("explain")
    train = learned.ratings
    i = int(rows_of(train.user_ids, [user], "user")[0])
    target = rows_of(train.item_ids, [item], "item")
    cells = slice(*train.pattern.row_pointers[i : i + 2].tolist())
    assert train.rating is not None  # checked above
    change = np.zeros(cells.stop - cells.start)
    if len(change):
        full = replace(learned, latents=completed(learned, learned.seen))
        draws: list[Any] = [full.latents]
        if full.n_draws is not None:
            draws = [*full.draws(min(_DRAWS, full.n_draws))]
        parts = [_UserRow(learned, draw, i, cells).changes(target) for draw in draws]
        change = torch.stack(parts).mean(0).numpy()
    table = pd.DataFrame(
        {
            "item": train.item_ids.take(train.item[cells].numpy()),
            "rating": train.rating[cells],
            "change": change,
        }
    )
    return table.sort_values("change", key=np.abs, ascending=False, ignore_index=True)


class _Fit(NamedTuple):
    """The density of a row to second order.

    Attributes
    ----------
    gradients : Tensor, shape (n_ratings, n)
        G_j of each rating.
    curvatures : Tensor, shape (n_ratings, n, n)
        B_j of each rating.
    """

    gradients: Tensor
    curvatures: Tensor


class _UserRow:
    """The row (U_i, b_i) of a user, given the items.

    Parameters
    ----------
    learned : Learned
        Result of a fit of a `PMF`.
    latents : mapping of str to Tensor, Gaussian or LogGaussian
        A draw, or the distribution of a closed form.
    i : int
        Index of the user.
    cells : slice
        The training ratings of the user.
    """

    def __init__(self, learned: Learned, latents: Any, i: int, cells: slice) -> None:
        self._learned, self._model = learned, cast(PMF, learned.model)
        self._latents, self._priors = complete(self._model, latents, learned.seen)
        self._scores = Scores(self._model, self._latents, learned.seen)
        self._user = _double(self._scores.users.rows(torch.tensor([i])))
        self._items = _double(self._scores.items.rows(learned.ratings.item[cells]))
        value = learned.ratings.value
        assert value is not None  # checked by `fit`
        self._value = value[cells].double()
        self._own = {name: x.double() for name, x in self._scores.own.items()}
        self._has_bias = any(t.plate == "users" for t in self._model.terms if type(t) is Bias)
        self._precision, self._loc = self._prior(i)
        self._shift = self._shift_of_prior(i, learned.ratings.item[cells])
        self._row = self._joined(self._user.factors[0], self._user.bias[0])[0]
        if learned.n_draws is not None:
            self._row = self._mode()

    def changes(self, target: Tensor) -> Tensor:
        """Return the expected rating less that without each rating, shape (n_ratings,)."""
        fit = self._at(self._row)
        whole = self._whole(fit)
        without = whole - fit.curvatures
        step = torch.linalg.solve(without, self._precision * self._shift - fit.gradients)
        rows = torch.cat([self._row[None], self._row + step])
        curvatures = torch.cat([whole[None], without])
        mean = self._expected(rows, curvatures, _double(self._scores.items.rows(target)))
        return mean[0] - mean[1:]

    def _prior(self, i: int) -> Moments:
        """Return precision and mean of the prior of the row, shape (n,)."""
        found = []
        for kind in (Factor, Bias):
            for term in self._model.terms:
                if type(term) is kind and term.plate == "users":
                    prior = self._priors[term.site]
                    scale: Any = prior.scale
                    precision = (
                        scale.mean_precision if isinstance(scale, LogGaussian) else scale**-2
                    )
                    shape = prior.batch_shape
                    row = precision.expand(shape)[i], moments_of(prior.loc)[0].expand(shape)[i]
                    found.append([x.double().reshape(-1) for x in row])
        if not found:
            none = self._value.new_zeros(0)
            return none, none
        precision, loc = (torch.cat(x) for x in zip(*found, strict=True))
        return precision, loc

    def _shift_of_prior(self, i: int, items: Tensor) -> Tensor:
        """Return the shift of the prior mean without each rated item, (n_ratings, n)."""
        shift = self._value.new_zeros(len(items), len(self._loc))
        factors = self._model.terms.factors
        term = None if factors is None else sums_of(self._model).get(factors[0].site)
        if term is None:
            return shift
        effects = moments_of(self._latents[term.site])[0].double()
        history, k = self._learned.seen, effects.shape[1]
        n = history.user_counts[i].double()
        whole = self._loc[:k] - self._mean_of_rows()
        total = whole * self._model.divide_by(n)
        if n > 1:
            rest = (total - effects[items]) / self._model.divide_by(n - 1)
        else:  # an item that is not known, as for users without ratings
            share = history.item_counts.double()
            rest = (share / share.sum() @ effects).expand(len(items), k)
        shift[:, :k] = rest - whole
        return shift

    def _mean_of_rows(self) -> Tensor | float:
        """Return the mean of all rows of factors of users."""
        factors = self._model.terms.factors
        if factors is None or not self._model.means:
            return 0.0
        return moments_of(self._latents[factors[0].mean])[0].double().reshape(-1)

    def _at(self, row: Tensor) -> _Fit:
        """Return the contributions of the ratings to the density about a row."""
        x, x_var = self._x(self._items)
        mean, var = self._score(row[None], self._spread(), self._items)
        with torch.enable_grad():
            leaf = mean[0].detach().requires_grad_()
            fn = rating_of(self._model, self._own, (leaf, var[0]), self._log_noise(self._items))
            weights, parts = mixture_of(fn)
            density = (weights @ parts.log_prob(self._value)).sum()
            (slope,) = torch.autograd.grad(density, leaf, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), leaf)
        slope = slope.detach()
        gradients = slope[:, None] * x + bend[:, None] * x_var * row
        squares = x[:, :, None] * x[:, None] + torch.diag_embed(x_var)
        curvatures = -bend[:, None, None] * squares
        if torch.linalg.cholesky_ex(self._whole(_Fit(gradients, curvatures))).info:
            curvatures = (-bend).clamp(min=0)[:, None, None] * squares
        return _Fit(gradients, curvatures)

    def _mode(self) -> Tensor:
        """Return the row of the highest density, by Newton's method from the row as drawn."""
        row = self._row
        for _ in range(_STEPS):
            fit = self._at(row)
            gradient = self._precision * (self._loc - row) + fit.gradients.sum(0)
            step = torch.linalg.solve(self._whole(fit), gradient)
            row = row + step
            if not (step.abs() > _CLOSE).any():
                break
        return row

    def _whole(self, fit: _Fit) -> Tensor:
        return torch.diag(self._precision) + fit.curvatures.sum(0)

    def _expected(self, rows: Tensor, curvatures: Tensor, target: Side) -> Tensor:
        """Return the expected rating of the target for rows of these curvatures."""
        spread = self._spread().expand(rows.shape)
        if self._learned.n_draws is None:  # in mean field, a variance is 1 / a diagonal entry
            diagonal = curvatures.diagonal(dim1=1, dim2=2)
            mean, var = self._score(rows, spread * diagonal[:1] / diagonal, target)
        else:
            mean, var = self._score(rows, spread, target)
            x = self._x(target)[0][0]
            var = (torch.linalg.inv(curvatures) @ x @ x)[:, None]
        log = self._log_noise(target)
        fn = rating_of(
            self._model,
            self._own,
            (mean[:, 0], var[:, 0]),
            (log[0].expand(len(rows)), log[1].expand(len(rows))),
        )
        return predictive_of(self._learned, mixture_of(fn)).mean

    def _spread(self) -> Tensor:
        """Return the variances of the row, shape (1, n)."""
        return self._joined(self._user.factors[1], self._user.bias[1])

    def _score(self, rows: Tensor, variances: Tensor, items: Side) -> Moments:
        """Return mean and variance of the scores of rows with items, (n_rows, n_items)."""
        k = items.factors[0].shape[1]
        n = len(rows)
        bias = self._user.bias[0].expand(n), self._user.bias[1].expand(n)
        if self._has_bias:
            bias = rows[:, k], variances.expand(rows.shape)[:, k]
        factors = rows[:, :k], variances.expand(rows.shape)[:, :k]
        return self._scores.moments(Side(factors, bias, bias), items)

    def _log_noise(self, items: Side) -> Moments:
        """Return mean and variance of the log of the noise with some items."""
        shared, user = self._scores.sigma, self._user.log_noise
        mean, var = (a + b + c for a, b, c in zip(shared, user, items.log_noise, strict=True))
        return mean.double(), var.double()

    def _x(self, items: Side) -> Moments:
        """Return mean and variance of (V_j, 1) of some items, (n_items, n)."""
        (V, V_var), (bias, _), _ = items
        return self._joined(V, torch.ones_like(bias)), self._joined(V_var, torch.zeros_like(bias))

    def _joined(self, factors: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([factors, bias[:, None]], 1) if self._has_bias else factors


def _double(side: Side) -> Side:
    return Side(*((mean.double(), var.double()) for mean, var in side))
