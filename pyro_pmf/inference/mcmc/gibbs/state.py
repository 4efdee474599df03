"""State of the blocked sampler: the latents of a `PMF`, and the scores that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.axis import Axis
from pyro_pmf.inference.mcmc.gibbs.slices import Density
from pyro_pmf.inference.mcmc.gibbs.tiles import Tiles
from pyro_pmf.inference.mcmc.gibbs.working import LogisticWorking, Working
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen, Term
from pyro_pmf.moments.bilinear import dot

# Fields that follow from the model and the ratings, or that have a state of their own; sweeps
# change all others.
_NOT_OF_SIDE = (
    *("tiles", "order", "back", "terms", "row_of_user_order"),
    *("rows", "columns", "counts"),
)
# Of the others, those with a row for each row of a side, and those with a number for each rating.
_OF_ROWS = ("F", "b", "s", "M", "step")
_OF_RATINGS = ("score", "log_noise", "log_prob", "centre")
_NOT_OF_BOTH = ("users", "items", "densities", "likelihood", "generator", "n_ratings")


@dataclass
class Side:
    """Latents of the users, or of the items, and the ratings in the order of this side.

    The prior mean of the factors is a sum over the other side, so the effects ``W`` have one row
    for each row of the other side. Where processes share the chain, tensors have the rows and the
    ratings of this process.

    Attributes
    ----------
    rows, columns : Axis
        The rows of this side, and those of the other one.
    counts : Tensor, int32, shape (n_rows,)
        Number of ratings of each row, in all processes.
    tiles : Tiles
        The rated pairs, with a row for each row of this side.
    order, back : Tensor, int32, shape (n_ratings,), or None
        Positions that put values in row order of users into the order of this side, and back;
        None where the order is the same.
    terms : dict of type to Term
        Terms of this side by kind; the effects count to the side whose factors they sum to.
    F : Tensor, shape (n_rows, n_factors)
        Factors.
    b : Tensor, shape (n_rows,)
        Biases, 0 without them.
    s : Tensor, shape (n_rows,)
        Log noise, 0 without it.
    W : Tensor, shape (n_columns, n_factors)
        Effects whose sums are the prior means of the factors, 0 without them.
    mean : Tensor, shape (n_factors,), or None
        Mean of all rows of factors; None if it is 0.
    M : Tensor, shape (n_rows, n_factors)
        Prior means of the factors: ``mean`` plus the sums.
    tau : Tensor, shape (n_factors,)
        Scale of each factor; 1 on the side of items.
    step : Tensor, shape (n_rows,)
        Step of each row's trajectory, relative to the usual one.
    row_of_user_order : Tensor, int32, shape (n_ratings,)
        The row of each rating, in row order of users.
    """

    rows: Axis
    columns: Axis
    counts: Tensor
    tiles: Tiles
    order: Tensor | None
    back: Tensor | None
    terms: dict[type[Term], Term]
    F: Tensor
    b: Tensor
    s: Tensor
    W: Tensor
    M: Tensor
    mean: Tensor | None
    tau: Tensor
    step: Tensor
    row_of_user_order: Tensor

    @property
    def n_latent_rows(self) -> int:
        """Number of rows with one entry for each factor: of factors, their mean and effects."""
        return self.n_factor_rows + (self.columns.n if SumOverSeen in self.terms else 0)

    @property
    def n_factor_rows(self) -> int:
        """Number of rows of factors, with that of their mean."""
        return self.rows.n + (0 if self.mean is None else 1)

    def has(self, kind: type[Term]) -> bool:
        """Return whether the model has a term of this kind on this side."""
        return kind in self.terms

    def site(self, kind: type[Term]) -> str:
        """Return the site of the term of this kind."""
        return self.terms[kind].site

    @property
    def mean_site(self) -> str:
        """The site of the mean of all rows of factors."""
        return cast(Factor, self.terms[Factor]).mean

    def scale_names(self, *kinds: type[Term]) -> list[str]:
        """Return the names of the scales of the terms of these kinds that the model has."""
        return [self.terms[kind].scale for kind in kinds if kind in self.terms]

    def at_ratings(self, values: Tensor) -> Tensor:
        """Return a value of each row at its ratings, in row order of users, shape (n_ratings,)."""
        return values.index_select(0, self.row_of_user_order)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values of the ratings, in the order of this side, by row, in float64."""
        return self.columns.sum(self.tiles.sum(values))

    def scale_by(self, a: Tensor) -> None:
        """Multiply the factors, their effects and their means by numbers, shape (n_factors,)."""
        self.F, self.W, self.M = self.F * a, self.W * a, self.M * a
        self.mean = None if self.mean is None else self.mean * a


@dataclass
class State:
    """All latents of one chain, and what follows from them.

    Attributes
    ----------
    users, items : Side
        Latents of both sides.
    scales : dict of str to float
        Standard deviations by site; those that the priors fix, too.
    densities : dict of str to callable
        Log prior density of each scale, of mu, of sigma and of tau that the priors do not fix.
    mu, log_sigma : float
        Mean score and log noise; 0 where the likelihood has none.
    likelihood : Working
        The likelihood of the ratings, in row order of users.
    score, log_noise, log_prob : Tensor, shape (n_ratings,)
        Score, log noise and log likelihood of each rating.
    centre : Tensor, shape (n_ratings,)
        Score at which the likelihood is expanded: a running mean of the score.
    generator : numpy.random.Generator
        Source of randomness of single numbers; arrays use the streams of their axes.
    n_ratings : int
        Number of ratings, in all processes.
    steps : dict of str to float
        Steps of random walks, by move.
    """

    users: Side
    items: Side
    scales: dict[str, float]
    densities: dict[str, Density]
    mu: float
    log_sigma: float
    likelihood: Working
    score: Tensor
    log_noise: Tensor
    log_prob: Tensor
    centre: Tensor
    generator: np.random.Generator
    n_ratings: int
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
        """Each side with the other one: users with items, then items with users."""
        return (self.users, self.items), (self.items, self.users)

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return self.users.F.shape[1]

    def is_free(self, name: str) -> bool:
        """Return whether a scalar parameter is a latent of this model."""
        return name in self.densities

    def total(self, values: Tensor) -> float:
        """Return the sum of a value of each rating, in float64, over all processes."""
        return float(self.users.rows.sum(values.double().sum()))

    def take(self, sites: Mapping[str, Tensor]) -> None:
        """Set the latents to the values of a draw; scores, noise and means are computed by others.

        Parameters
        ----------
        sites : mapping of str to Tensor
            Values by site, of the latents that the priors do not fix.
        """
        for side, _ in self.sides:
            rows = {kind: sites[side.site(kind)].to(self.score) for kind in side.terms}
            side.F, side.b = rows.get(Factor, side.F), rows.get(Bias, side.b)
            side.s, side.W = rows.get(LogNoise, side.s), rows.get(SumOverSeen, side.W)
            if side.mean is not None:
                side.mean = sites[side.mean_site].to(self.score)
        self.scales.update({name: float(sites[name]) for name in self.scales if name in sites})
        self.users.tau = sites.get(TAU, self.users.tau).to(self.score)
        if self.is_free("mu"):
            self.mu = float(sites["mu"])
        if self.is_free("sigma"):
            self.log_sigma = math.log(float(sites["sigma"]))
        if isinstance(self.likelihood, LogisticWorking) and self.likelihood.is_ordered:
            below = sites["shares"].double().cumsum(0)[:-1]
            self.likelihood.set_cutpoints(torch.logit(below).to(self.score))

    def present(self) -> dict[str, Any]:
        """Return everything that sweeps change, which the next one does."""
        return {
            "both": _without(self, _NOT_OF_BOTH),
            "sides": [_without(side, _NOT_OF_SIDE) for side, _ in self.sides],
            "cutpoints": getattr(self.likelihood, "cutpoints", None),
            "generator": self.generator.bit_generator.state,
        }

    def restore(self, present: dict[str, Any]) -> None:
        """Continue from a result of `present` of the same model and ratings."""
        vars(self).update(present["both"])
        for (side, _), values in zip(self.sides, present["sides"], strict=True):
            vars(side).update(values)
        if isinstance(self.likelihood, LogisticWorking):
            self.likelihood.set_cutpoints(present["cutpoints"])
        self.generator.bit_generator.state = present["generator"]

    def compute_scores(self) -> None:
        """Compute the scores anew, so that rounding does not add up over sweeps."""
        u, v = self.users, self.items
        self.score = dot(u.F, v.F, u.tiles.pattern, u.b, v.b) + self.mu
        self.compute_log_prob()

    def compute_log_prob(self) -> None:
        """Compute the log likelihoods anew."""
        self.log_prob = self.likelihood.log_prob(self.score, self.log_noise)

    def compute_log_noise(self) -> None:
        """Compute the log noise of each rating anew."""
        u, v = self.users, self.items
        none = u.F[:, :0], v.F[:, :0]
        self.log_noise = dot(*none, u.tiles.pattern, u.s, v.s) + self.log_sigma


def _without(x: Side | State, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in vars(x).items() if name not in names}


def with_users(
    present: dict[str, Any],
    of_users: Callable[[Tensor], Tensor],
    of_ratings: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """Return a result of `State.present` for other users.

    Parameters
    ----------
    present : dict
        The result.
    of_users, of_ratings : callable
        Return the rows of the other users, and the numbers of their ratings, from these.
    """
    both = {
        name: of_ratings(x) if name in _OF_RATINGS else x for name, x in present["both"].items()
    }
    users, items = present["sides"]
    ours = {name: of_users(x) if name in _OF_ROWS else x for name, x in users.items()}
    shared = (*_OF_ROWS, "tau", "mean")  # the effects that the items sum are of users
    theirs = {name: x if name in shared else of_users(x) for name, x in items.items()}
    return present | {"both": both, "sides": [ours, theirs]}
