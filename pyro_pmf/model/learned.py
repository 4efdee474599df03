"""`Learned`: a fitted model, its training ratings, and the posterior of its latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.moments.gaussian import Uncertain, Value


@dataclass(frozen=True)
class Converged:
    """Whether a fit has converged, by what is asked of it; true if both are.

    Predictions of chains mix long before standard deviations do. Variational inference and MAP
    judge both by the ELBO.

    Attributes
    ----------
    predictions : bool
        Whether predictions can be trusted.
    parameters : bool
        Whether parameters and effects can be trusted.

    Examples
    --------
    >>> converged = Converged(predictions=True, parameters=False)
    >>> bool(converged), converged.predictions
    (False, True)
    """

    predictions: bool
    parameters: bool

    def __bool__(self) -> bool:
        return self.predictions and self.parameters

    def __str__(self) -> str:
        if self.predictions == self.parameters:
            return "converged" if self else "not converged"
        for_sure = "predictions" if self.predictions else "parameters"
        not_yet = "parameters" if self.predictions else "predictions"
        return f"converged for {for_sure}, not for {not_yet}"


@dataclass(frozen=True, repr=False)
class Learned:
    """The distribution of a model's latents given its training ratings, as approximated by `fit`.

    Attributes
    ----------
    model : callable
        The Pyro model that was fitted.
    ratings : Ratings
        The training ratings; only their pairs if a posterior was saved without their values.
    latents : mapping of str to Gaussian, LogGaussian or Tensor
        By site: the approximate posterior, or a point estimate (a Tensor, or a Gaussian with
        variance zero). If ``n_draws`` is not None: draws, Tensors of shape (n_draws, ...).
    n_draws : int or None
        Number of draws that represent the posterior; None if it has a closed form.
    steps : pandas.DataFrame
        One row per step of the fit: step (from 1), elbo (nats), seconds. With Markov chains, one
        row per draw: step, chain, log_likelihood of the training ratings (nats), divergent,
        seconds.
    converged : Converged
        Whether the ELBO stopped rising before the step limit, or the chains have mixed; apart for
        predictions and for parameters. A bool stands for both.
    n_chains : int or None
        Number of Markov chains, whose draws follow one another; None without chains.
    history : Pairs or None
        The training pairs and all others that `fit` was told were rated; None without others.
    tracked : pandas.DataFrame or None
        Mean and sd of the ratings of the pairs of `Gibbs.track`, over all sweeps; not saved.
    part : (int, int) or None
        Rank of a process and number of processes, if this is the part of its own users in a fit
        that processes shared; None if it is whole.
    """

    model: Callable[..., Any]
    ratings: Ratings
    latents: Mapping[str, Value]
    n_draws: int | None
    steps: pd.DataFrame
    converged: Converged
    n_chains: int | None = None
    history: Pairs | None = None
    tracked: pd.DataFrame | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.converged, Converged):
            both = bool(self.converged)
            object.__setattr__(self, "converged", Converged(both, both))

    @property
    def seen(self) -> Pairs:
        """The pairs with I_ij = 1: ``history``, or else the training ratings."""
        return self.ratings if self.history is None else self.history

    def to(self, device: str | torch.device) -> Self:
        """Return the same fit on a device, for code of one's own: tables are made on the CPU.

        Parameters
        ----------
        device : str or torch.device
            Device of the latents and of all pairs.
        """

        def moved(value: Value) -> Value:
            if isinstance(value, Uncertain):
                return value.map(lambda x: x.to(device))
            return value.to(device)

        return replace(
            self,
            ratings=self.ratings.to(device),
            history=None if self.history is None else self.history.to(device),
            latents={site: moved(value) for site, value in self.latents.items()},
        )

    def without_training_ratings(self) -> Self:
        """Return the same fit without the values and times of the training ratings.

        The pairs that were rated stay, since predictions of hierarchical models need them.
        """
        return replace(self, ratings=self.ratings.without_ratings())

    def require_training_ratings(self, purpose: str) -> None:
        """Raise `PMFError` if the training ratings were left out of a saved posterior.

        Parameters
        ----------
        purpose : str
            What needs them; it begins the message.
        """
        if self.ratings.rating is None:
            raise PMFError(
                f"{purpose} needs the training ratings, and this posterior was saved without "
                "them: load one that was saved with training_ratings=True."
            )

    def __repr__(self) -> str:
        length = f"{len(self.steps)} {'steps' if self.n_chains is None else 'draws'}"
        when = "in" if self.converged else "after"
        state = f"{self.converged} {when} {length}"
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
