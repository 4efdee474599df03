"""The blocked sampler as a kernel of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Size, Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.inference.mcmc.gibbs.axis import Axes, Axis
from pyro_pmf.inference.mcmc.gibbs.initial import knows_terms
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.state import with_users
from pyro_pmf.inference.mcmc.gibbs.working import knows_likelihood
from pyro_pmf.inference.sharing import Sharing, sites_of_users
from pyro_pmf.model.pmf import PMF
from pyro_pmf.reducer import Reducer


class GibbsKernel:
    """A chain of the blocked sampler.

    Parameters
    ----------
    model : PMF
        The model.
    ratings : Pairs
        The training ratings, with values, on the device of the fit.
    history : Pairs or None
        All pairs with I_ij = 1; None if these are the training pairs.
    seed : int
        Seed of single numbers; arrays use torch's random state.
    n_warmup : int
        Number of sweeps before the draws; the last of them adapt nothing.
    sharing : Sharing, optional
        The part of this process, if several share the chain; each then calls each method.

    Attributes
    ----------
    sites : dict of str to torch.Size
        Shapes of the latent sites.

    Raises
    ------
    FitError
        If the model is not a `PMF` with the terms and a likelihood of this package.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        ratings: Pairs,
        history: Pairs | None,
        seed: int,
        n_warmup: int,
        sharing: Sharing | None = None,
    ) -> None:
        if not is_known(model):
            raise FitError(
                "The Gibbs sampler draws from a PMF with a likelihood of this package, not from "
                f"{model!r}: give method='nuts', which takes any Pyro model."
            )
        self._terms, self._seed, self._sharing = model.terms, seed, sharing
        axes: Axes | None = None
        if sharing is not None:
            history, ratings = sharing.history(history, ratings), sharing.shard
            self._own = torch.Generator(ratings.device)
            reducer = sharing.reducer
            self._own.manual_seed(seed_of_own(seed, reducer.rank, reducer.size, 0))
            users = Axis(sharing.shard.n_all_users, reducer, self._own)
            axes = users, Axis(ratings.n_items)
        seen = ratings if history is None else history
        self._sampler = Sampler(model, ratings, seen, np.random.default_rng(seed), axes, n_warmup)
        self.sites: dict[str, Size] = {name: value.shape for name, value in self._draw().items()}

    def step(self) -> None:
        """Take one sweep.

        Raises
        ------
        FitError
            If the processes that share the chain do not agree about what all of them hold.
        """
        self._sampler.sweep()
        if self._sharing is not None:
            self._require_agreement(self._sharing.reducer)

    def draw(self) -> tuple[dict[str, Tensor], float]:
        """Return the present values of the latents by site, and the log likelihood in nats."""
        return self._draw(), self._sampler.log_likelihood()

    def has_diverged(self) -> bool:
        """Return False: every draw of a block is exact or accepted."""
        return False

    def present_state(self) -> dict[str, Any]:
        """Return everything that a chain of the same task needs to continue."""
        state = {"n_sweeps": self._sampler.n_sweeps, **self._sampler.state.present()}
        if (sharing := self._sharing) is None:
            return state
        streams = sharing.reducer.each(self._own.get_state())
        return with_users(state, sharing.users, sharing.ratings) | {"streams": streams}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a result of `present_state`, of any number of processes."""
        n_sweeps = self._sampler.n_sweeps = state["n_sweeps"]
        if (sharing := self._sharing) is not None:
            streams, reducer = state.get("streams", []), sharing.reducer
            if len(streams) == reducer.size:
                self._own.set_state(streams[reducer.rank])
            else:
                seed = seed_of_own(self._seed, reducer.rank, reducer.size, n_sweeps)
                self._own.manual_seed(seed)
            state = with_users(state, sharing.own_users, sharing.own_ratings)
        self._sampler.state.restore(state)

    def _draw(self) -> dict[str, Tensor]:
        draw = self._sampler.draw()
        return draw if self._sharing is None else self._sharing.rows(draw, self._terms)

    def _require_agreement(self, reducer: Reducer) -> None:
        """Refuse to go on if other processes have other items, scales or cut points.

        Unlike processors and other numbers of threads may round in other ways.
        """
        own = sites_of_users(self._terms)
        shared = [x.double().sum() for name, x in self._sampler.draw().items() if name not in own]
        total = torch.stack(shared).nan_to_num()
        greatest, least = reducer.largest(torch.stack([total, -total]))
        if not torch.equal(greatest, -least):
            raise FitError(
                "The processes of this fit no longer agree about what all of them hold: run them "
                "on processors of one kind, with one version of torch and as many threads each."
            )


def is_known(model: Callable[..., Any]) -> TypeGuard[PMF]:
    """Return whether the sampler knows a model: a `PMF` with the terms and likelihoods of here.

    Parameters
    ----------
    model : callable
        A Pyro model.
    """
    return type(model) is PMF and knows_terms(model) and knows_likelihood(model.likelihood)


def seed_of_own(seed: int, rank: int, size: int, n_sweeps: int) -> int:
    """Return the seed of the random stream of one of the processes that share a chain.

    Parameters
    ----------
    seed : int
        Seed of the chain.
    rank, size : int
        Number of the process, from 0, and number of processes.
    n_sweeps : int
        Number of sweeps of the chain before, with other streams.
    """
    return int(np.random.SeedSequence((seed, rank, size, n_sweeps)).generate_state(1)[0])
