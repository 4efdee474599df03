"""Inference methods: one frozen object of options for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, get_args

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import FitError

LearnScales = Literal["held_out", "elbo"]


@dataclass(frozen=True)
class Ascent:
    """Options of methods that maximize an ELBO step by step; use `MAP` or `VI`.

    Parameters
    ----------
    max_steps : int
        Largest number of steps; the fit ends there, converged or not.
    learning_rate : float
        Step size of Adam until its decay. L-BFGS does not use it.
    tolerance : float
        The fit has converged when the ELBO gains less than this in 25 steps, in nats per rating.
    batches : int
        Number of blocks of users that the ratings are cut into; each step of Adam uses one block.
        Several blocks save memory. If memory suffices, one block reaches the same ELBO sooner.
    n_draws : int
        Number of draws that represent a posterior without a closed form.

    Raises
    ------
    FitError
        If an option is not valid.
    """

    max_steps: int = 2000
    learning_rate: float = 0.03
    tolerance: float = 3e-4
    batches: int = 1
    n_draws: int = 100

    def __post_init__(self) -> None:
        for name in ("max_steps", "batches", "n_draws"):
            require_integer(name, getattr(self, name), error=FitError)
        for name in ("learning_rate", "tolerance"):
            number = getattr(self, name)
            is_number = isinstance(number, Real) and not isinstance(number, bool)
            if not is_number or not 0 < float(number) < math.inf:
                raise FitError(f"{name} must be a positive number, not {number!r}.")


@dataclass(frozen=True)
class MAP(Ascent):
    """Maximum a posteriori: the latents of the highest joint density.

    The standard deviations of a `PMF` are held at `scales.map_scales` unless its priors fix them,
    and all ratings share one noise. Otherwise the joint density would be unbounded: it grows as a
    scale and its latents go to zero together, and as the noise of one user goes to zero.

    Parameters
    ----------
    max_steps, learning_rate, tolerance, batches, n_draws
        See `Ascent`.

    Raises
    ------
    FitError
        If an option is not valid.

    Examples
    --------
    >>> from pyro_pmf import MAP
    >>> MAP(max_steps=500).max_steps
    500
    """


@dataclass(frozen=True)
class VI(Ascent):
    """Variational inference: the best approximation of the posterior within a guide's family.

    The default guide is mean-field: an independent Normal for every latent entry, and a LogNormal
    for every standard deviation. Its deterministic ELBO is maximized by L-BFGS in the metric of
    the guide's Fisher information. Other guides, and models without a closed form, use Pyro's
    `Trace_ELBO` and Adam.

    Parameters
    ----------
    max_steps, learning_rate, tolerance, batches, n_draws
        See `Ascent`.
    guide : callable or type, optional
        A Pyro guide of the model, or a guide class such as `AutoDelta`, which is called with the
        model. A guide that is a module keeps its parameters, so a further fit continues from them.
    learn_scales : {"held_out", "elbo"}, optional
        How to learn the standard deviations of a `PMF`'s factors that the priors do not fix. By
        default they are held at `scales.factor_scales`. "held_out" maximizes their prior times the
        density of a tenth of the ratings given the others, by a search of quicker fits
        (`scales.learnt_scales`), and holds the values found. "elbo" gives them a posterior like
        all other latents; with weak factors, the ELBO then prefers to have none.

    Raises
    ------
    FitError
        If an option is not valid, or ``learn_scales`` is given with a guide.

    Examples
    --------
    >>> from pyro_pmf import VI
    >>> VI(learn_scales="held_out").tolerance
    0.0003
    >>> VI(tolerance=-1)
    Traceback (most recent call last):
        ...
    pyro_pmf.errors.FitError: tolerance must be a positive number, not -1.
    """

    guide: Callable[..., Any] | None = None
    learn_scales: LearnScales | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is not None and not callable(self.guide):
            raise FitError(f"guide must be a Pyro guide or a guide class, not {self.guide!r}.")
        if self.learn_scales not in (None, *get_args(LearnScales)):
            raise FitError(
                f'learn_scales must be "held_out", "elbo" or None, not {self.learn_scales!r}.'
            )
        if self.guide is not None and self.learn_scales is not None:
            raise FitError(
                "learn_scales needs the default guide: leave out either guide or learn_scales."
            )


@dataclass(frozen=True)
class Chains:
    """Options of methods that draw from the posterior by Markov chains; use `NUTS` or `HMC`.

    Parameters
    ----------
    n_draws : int
        Number of draws of each chain, at least 4.
    n_warmup : int
        Number of steps of each chain before its draws. They tune the sampler and are not kept.
    n_chains : int
        Number of chains.

    Raises
    ------
    FitError
        If an option is not valid.
    """

    n_draws: int = 500
    n_warmup: int = 500
    n_chains: int = 2

    def __post_init__(self) -> None:
        require_integer("n_draws", self.n_draws, least=4, error=FitError)
        require_integer("n_warmup", self.n_warmup, error=FitError)
        require_integer("n_chains", self.n_chains, error=FitError)


@dataclass(frozen=True)
class NUTS(Chains):
    """Pyro's No-U-Turn sampler: draws from the exact posterior, all standard deviations learnt.

    Chains start from the prior and run on the CPU, in minutes for a few hundred ratings. They are
    the reference for the faster methods.

    Parameters
    ----------
    n_draws, n_warmup, n_chains
        See `Chains`.

    Raises
    ------
    FitError
        If an option is not valid.
    """


@dataclass(frozen=True)
class HMC(Chains):
    """Hamiltonian Monte Carlo that starts from variational inference, with all scales learnt.

    Each latent moves in steps of its standard deviation under the approximation. Draws are from
    the exact posterior and take minutes for 100,000 ratings, on the CPU.

    Parameters
    ----------
    n_draws, n_warmup, n_chains
        See `Chains`.
    start : VI
        Options of the approximation. It uses the default guide, one batch and held scales.

    Raises
    ------
    FitError
        If an option is not valid.
    """

    n_draws: int = 150
    n_warmup: int = 100
    start: VI = field(default_factory=VI)

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = isinstance(self.start, VI) and (
            self.start.guide is None and self.start.learn_scales is None
        )
        if not usual or self.start.batches != 1:
            raise FitError(
                "HMC starts from VI with the default guide, held scales and one batch, not from "
                f"{self.start!r}."
            )


Method = MAP | VI | NUTS | HMC
_BY_NAME: dict[str, Method] = {"map": MAP(), "vi": VI(), "nuts": NUTS(), "hmc": HMC()}


def as_method(method: str | Method) -> Method:
    """Return a method from its name, or the method itself.

    Parameters
    ----------
    method : str or MAP, VI, NUTS, HMC
        "map", "vi", "nuts" or "hmc", or a method.

    Returns
    -------
    MAP, VI, NUTS or HMC
        The method; for a name, with its default options.

    Raises
    ------
    FitError
        If ``method`` is neither.
    """
    if isinstance(method, str) and method in _BY_NAME:
        return _BY_NAME[method]
    if isinstance(method, Method):
        return method
    names = ", ".join(f'"{name}"' for name in _BY_NAME)
    raise FitError(
        f"method must be one of {names}, or MAP(...), VI(...), NUTS(...) or HMC(...), "
        f"not {method!r}."
    )
