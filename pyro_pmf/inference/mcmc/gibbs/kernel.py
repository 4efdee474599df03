"""The blocked sampler as a kernel of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
from torch import Size, Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError
from pyro_pmf.inference.mcmc.gibbs.initial import knows_terms
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.working import knows_likelihood
from pyro_pmf.model.pmf import PMF


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
        self, model: Callable[..., Any], ratings: Pairs, history: Pairs | None, seed: int
    ) -> None:
        if not is_known(model):
            raise FitError(
                "The Gibbs sampler draws from a PMF with a likelihood of this package, not from "
                f"{model!r}: give method='nuts', which takes any Pyro model."
            )
        seen = ratings if history is None else history
        self._sampler = Sampler(model, ratings, seen, np.random.default_rng(seed))
        self.sites: dict[str, Size] = {
            name: value.shape for name, value in self._sampler.draw().items()
        }

    def step(self) -> None:
        """Take one sweep."""
        self._sampler.sweep()

    def draw(self) -> tuple[dict[str, Tensor], float]:
        """Return the present values of the latents by site, and the log likelihood in nats."""
        return self._sampler.draw(), self._sampler.log_likelihood()

    def has_diverged(self) -> bool:
        """Return False: every draw of a block is exact or accepted."""
        return False

    def present_state(self) -> dict[str, Any]:
        """Return everything that a chain of the same task needs to continue."""
        return {"n_sweeps": self._sampler.n_sweeps, **self._sampler.state.present()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a result of `present_state`."""
        self._sampler.n_sweeps = state["n_sweeps"]
        self._sampler.state.restore(state)


def is_known(model: Callable[..., Any]) -> TypeGuard[PMF]:
    """Return whether the sampler knows a model: a `PMF` with the terms and likelihoods of here.

    Parameters
    ----------
    model : callable
        A Pyro model.
    """
    return type(model) is PMF and knows_terms(model) and knows_likelihood(model.likelihood)
