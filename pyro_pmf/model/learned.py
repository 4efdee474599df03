"""`Learned`: a fitted model, its training ratings, and the posterior of its latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.moments.gaussian import Uncertain, Value


@dataclass(frozen=True, repr=False)
class Learned:
    """The distribution of a model's latents given its training ratings, as approximated by `fit`.

    Attributes
    ----------
    model : callable
        The Pyro model that was fitted.
    ratings : Ratings
        The training ratings.
    latents : mapping of str to Gaussian, LogGaussian or Tensor
        By site: the approximate posterior, or a point estimate (a Tensor, or a Gaussian with
        variance zero). If ``n_draws`` is not None: draws, Tensors of shape (n_draws, ...).
    n_draws : int or None
        Number of draws that represent the posterior; None if it has a closed form.
    steps : pandas.DataFrame
        One row per step of the fit: step (from 1), elbo (nats), seconds. With Markov chains, one
        row per draw: step, chain, log_likelihood of the training ratings (nats), divergent,
        seconds.
    converged : bool
        Whether the ELBO stopped rising before the step limit, or the chains have mixed.
    n_chains : int or None
        Number of Markov chains, whose draws follow one another; None without chains.
    """

    model: Callable[..., Any]
    ratings: Ratings
    latents: Mapping[str, Value]
    n_draws: int | None
    steps: pd.DataFrame
    converged: bool
    n_chains: int | None = None

    def __repr__(self) -> str:
        length = f"{len(self.steps)} {'steps' if self.n_chains is None else 'draws'}"
        state = f"converged in {length}" if self.converged else f"not converged after {length}"
        return f"{type(self).__name__} of {self.model}\n  given {self.ratings}\n  {state}"

    def draws(self, n_draws: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Iterate over posterior draws of all latent sites, using torch's random state.

        Parameters
        ----------
        n_draws : int, optional
            Number of draws. Required if the posterior has a closed form. If draws represent it,
            the default is all of them; fewer are evenly spaced, more begin again at the first.

        Yields
        ------
        dict of str to Tensor
            The value of each latent site.
        """
        if self.n_draws is None:
            for _ in range(n_draws or 0):
                yield {
                    name: value.draw() if isinstance(value, Uncertain) else value
                    for name, value in self.latents.items()
                }
        else:
            wanted = n_draws or self.n_draws
            apart = max(1.0, self.n_draws / wanted)
            for k in range(wanted):
                yield {
                    name: value[int(k * apart) % self.n_draws]
                    for name, value in self.latents.items()
                    if isinstance(value, Tensor)
                }
