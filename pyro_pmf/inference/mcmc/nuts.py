"""Pyro's No-U-Turn sampler as a kernel of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer.mcmc import NUTS as PyroNUTS
from torch import Size, Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.inference.mcmc.coordinates import Coordinates
from pyro_pmf.internals import shorten_adaptation

_ACCEPTANCE = 0.9  # above the usual 0.8: with few ratings, scales make the posterior a funnel


class NUTSKernel:
    """A chain of Pyro's No-U-Turn sampler.

    Parameters
    ----------
    model : callable
        A Pyro model.
    ratings : Ratings
        The training ratings.
    n_warmup : int
        Number of steps in which the kernel adapts.

    Attributes
    ----------
    sites : dict of str to torch.Size
        Shapes of the latent sites.

    Raises
    ------
    FitError
        If a latent is discrete.
    """

    def __init__(self, model: Callable[..., Any], ratings: Ratings, n_warmup: int) -> None:
        self._coordinates = Coordinates(model, ratings)
        self.sites: dict[str, Size] = self._coordinates.sites
        self._kernel = PyroNUTS(
            potential_fn=self._coordinates.potential_of_site, target_accept_prob=_ACCEPTANCE
        )
        # Stan's windows keep unit masses for 100 draws
        shorten_adaptation(self._kernel, 10, 10, 30)
        self._place = {"z": self._coordinates.first()}
        self._kernel.initial_params = self._place
        self._kernel.setup(n_warmup)
        self._number = -n_warmup - 1  # of the last step; warm-up has negative numbers

    def step(self) -> None:
        """Take one step of the chain."""
        self._place = self._kernel.sample(self._place)
        self._number += 1

    def draw(self) -> tuple[dict[str, Tensor], float]:
        """Return the present values of the latents by site, and the log likelihood in nats."""
        return self._coordinates.draw(self._place["z"])

    def has_diverged(self) -> bool:
        """Return whether the last step diverged; those of the warm-up are not told."""
        return self._number >= 0 and self._number in self._kernel.diagnostics()["divergences"]
