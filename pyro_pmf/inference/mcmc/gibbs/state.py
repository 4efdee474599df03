"""State of the blocked sampler: the latents of a `PMF`, and the blocks of its ratings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.axis import Axis
from pyro_pmf.inference.mcmc.gibbs.block import Block, Grouped, sum_by_row
from pyro_pmf.inference.mcmc.gibbs.slices import Density
from pyro_pmf.inference.mcmc.gibbs.working import LogisticWorking, Working
from pyro_pmf.model.likelihoods import cutpoints_of
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen, Term
from pyro_pmf.moments.bilinear import dot

# Fields that follow from the model and the ratings, or that have a state of their own; sweeps
# change all others.
_NOT_OF_SIDE = ("rows", "columns", "counts", "groups", "terms")
# Of the others, those with a row for each row of a side, and those with a number for each rating.
_OF_ROWS = ("F", "b", "s", "M", "step")
_OF_RATINGS = ("score", "log_noise", "log_prob", "centre")
_NOT_OF_BOTH = ("users", "items", "densities", "blocks", "generator", "n_ratings")


@dataclass
class Side:
    """Latents of the users, or of the items, and the ratings grouped by the rows of this side.

    The prior mean of the factors is a sum over the other side, so the effects ``W`` have one row
    for each row of the other side. Where processes share the chain, tensors have the rows and the
    ratings of this process.

    Attributes
    ----------
    rows, columns : Axis
        The rows of this side, and those of the other one.
    counts : Tensor, int32, shape (n_rows,)
        Number of ratings of each row, in all processes.
    groups : list of Grouped
        The ratings of each block, grouped by the rows of this side.
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
    """

    rows: Axis
    columns: Axis
    counts: Tensor
    groups: list[Grouped]
    terms: dict[type[Term], Term]
    F: Tensor
    b: Tensor
    s: Tensor
    W: Tensor
    M: Tensor
    mean: Tensor | None
    tau: Tensor
    step: Tensor

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

    def sum(self, values: Iterable[Tensor]) -> Tensor:
        """Sum values of the ratings by row, in float64.

        Parameters
        ----------
        values : iterable of Tensor, shape (n_ratings,)
            Those of each block, in the order of this side.
        """
        each = [group.tiles.sum(x) for group, x in zip(self.groups, values, strict=True)]
        return self.columns.sum(sum_by_row(self.groups, each))

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
    blocks : list of Block
        The ratings, in blocks of users, with their scores and likelihoods.
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
    blocks: list[Block]
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

    @property
    def likelihood(self) -> Working:
        """The likelihood of the first block; all have the same, with the same cut points."""
        return self.blocks[0].likelihood

    def is_free(self, name: str) -> bool:
        """Return whether a scalar parameter is a latent of this model."""
        return name in self.densities

    def of_ratings(self, name: str) -> Tensor:
        """Return one of the numbers of a `Block`, for all ratings in row order of users."""
        return torch.cat([getattr(block, name) for block in self.blocks])

    def total(self, of_block: Callable[[Block], Tensor]) -> float:
        """Return a sum over all ratings, in float64, over all processes.

        Parameters
        ----------
        of_block : callable
            Returns a value of each rating of a block.
        """
        sums = [of_block(block).double().sum() for block in self.blocks]
        return float(self.users.rows.sum(torch.stack(sums).sum()))

    def set_cutpoints(self, cutpoints: Tensor) -> None:
        """Set the cut points of the likelihood, shape (n_levels - 1,)."""
        for block in self.blocks:
            assert isinstance(block.likelihood, LogisticWorking)
            block.likelihood.set_cutpoints(cutpoints)

    def shift_scores(self, d: float) -> None:
        """Add a number to all scores."""
        for block in self.blocks:
            block.put(score=block.score + d, centre=block.centre + d)

    def multiply_scores(self, a: float) -> None:
        """Multiply all scores by a number."""
        for block in self.blocks:
            block.put(score=block.score * a, centre=block.centre * a)

    def shift_log_noise(self, y: float) -> None:
        """Add a number to the log noise of all ratings."""
        for block in self.blocks:
            block.put(log_noise=block.log_noise + y)

    def move_centre(self, weight: float) -> None:
        """Move the running mean of the scores; with a weight of 1, it becomes the scores."""
        for block in self.blocks:
            block.put(centre=torch.lerp(block.centre, block.score, weight))

    def take(self, sites: Mapping[str, Tensor]) -> None:
        """Set the latents to the values of a draw; scores, noise and means are computed by others.

        Parameters
        ----------
        sites : mapping of str to Tensor
            Values by site, of the latents that the priors do not fix.
        """
        for side, _ in self.sides:
            rows = {kind: sites[side.site(kind)].to(side.F) for kind in side.terms}
            side.F, side.b = rows.get(Factor, side.F), rows.get(Bias, side.b)
            side.s, side.W = rows.get(LogNoise, side.s), rows.get(SumOverSeen, side.W)
            if side.mean is not None:
                side.mean = sites[side.mean_site].to(side.F)
        self.scales.update({name: float(sites[name]) for name in self.scales if name in sites})
        self.users.tau = sites.get(TAU, self.users.tau).to(self.users.F)
        if self.is_free("mu"):
            self.mu = float(sites["mu"])
        if self.is_free("sigma"):
            self.log_sigma = math.log(float(sites["sigma"]))
        if isinstance(self.likelihood, LogisticWorking) and self.likelihood.is_ordered:
            self.set_cutpoints(cutpoints_of(sites["shares"].double()).to(self.users.F))

    def present(self) -> dict[str, Any]:
        """Return everything that sweeps change, which the next one does."""
        return {
            "both": _without(self, _NOT_OF_BOTH)
            | {name: self.of_ratings(name) for name in _OF_RATINGS},
            "sides": [_without(side, _NOT_OF_SIDE) for side, _ in self.sides],
            "cutpoints": getattr(self.likelihood, "cutpoints", None),
            "generator": self.generator.bit_generator.state,
        }

    def restore(self, present: dict[str, Any]) -> None:
        """Continue from a result of `present` of the same model and ratings."""
        both = dict(present["both"])
        numbers = [
            both.pop(name).split([len(x.score) for x in self.blocks]) for name in _OF_RATINGS
        ]
        for block, *values in zip(self.blocks, *numbers, strict=True):
            block.put(**dict(zip(_OF_RATINGS, values, strict=True)))
        vars(self).update(both)
        for (side, _), values in zip(self.sides, present["sides"], strict=True):
            vars(side).update(values)
        if isinstance(self.likelihood, LogisticWorking):
            self.set_cutpoints(present["cutpoints"])
        self.generator.bit_generator.state = present["generator"]

    def compute_scores(self) -> None:
        """Compute the scores anew, so that rounding does not add up over sweeps."""
        u, v = self.users, self.items
        for block, group in zip(self.blocks, u.groups, strict=True):
            rows = u.F[group.rows], v.F, group.tiles.pattern, u.b[group.rows], v.b
            block.put(score=dot(*rows) + self.mu)
            block.compute_log_prob()

    def compute_log_prob(self) -> None:
        """Compute the log likelihoods anew."""
        for block in self.blocks:
            block.compute_log_prob()

    def compute_log_noise(self) -> None:
        """Compute the log noise of each rating anew."""
        u, v = self.users, self.items
        none = v.F[:, :0]
        for block, group in zip(self.blocks, u.groups, strict=True):
            rows = u.F[group.rows, :0], none, group.tiles.pattern, u.s[group.rows], v.s
            block.put(log_noise=dot(*rows) + self.log_sigma)


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
