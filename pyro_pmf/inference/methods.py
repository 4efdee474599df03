"""Inference methods: one frozen object of options for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

from pyro_pmf.arguments import require_integer
from pyro_pmf.data.frames import IntoFrame, is_frame
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError

LearnScales = Literal["held_out", "elbo"]

_LEAST_WARMUP, _MOST_WARMUP = 30, 150  # sweeps of `Gibbs`
_MANY = 10  # ratings of a row, with which the least will do
_MOST_THIN = 4  # sweeps of `Gibbs` for each draw
_SWEPT = 50_000  # ratings, whose sweeps take so little time that there can be more


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
    learn_scales : {"held_out"}, optional
        How to learn the standard deviations that the fit holds and that the priors do not fix.
        "held_out" holds those of a short run of the blocked Gibbs sampler, or the same with
        larger, smaller or fewer factors, or with scales of biases and noise that are learnt, if
        quick fits predict a held-out tenth of the training ratings better with them; the fit
        begins at the last draw of the run. This takes a few times as long as the fit itself. With
        None, values that suit films are held for factors (of MAP, for all), and the fit begins at
        small random factors.

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
    learn_scales: LearnScales | None = "held_out"

    def __post_init__(self) -> None:
        for name in ("max_steps", "batches", "n_draws"):
            require_integer(name, getattr(self, name), error=FitError)
        for name in ("learning_rate", "tolerance"):
            number = getattr(self, name)
            is_number = isinstance(number, Real) and not isinstance(number, bool)
            if not is_number or not 0 < float(number) < math.inf:
                raise FitError(f"{name} must be a positive number, not {number!r}.")
        ways = [*get_args(LearnScales)] if isinstance(self, VI) else ["held_out"]
        if self.learn_scales not in (None, *ways):
            names = ", ".join(f'"{way}"' for way in ways)
            raise FitError(f"learn_scales must be {names} or None, not {self.learn_scales!r}.")


@dataclass(frozen=True)
class MAP(Ascent):
    """Maximum a posteriori: the latents of the highest joint density.

    The standard deviations of a `PMF` are held (see ``learn_scales``) unless its priors fix them,
    and all ratings share one noise. Otherwise the joint density would be unbounded: it grows as a
    scale and its latents go to zero together, and as the noise of one user goes to zero.

    Parameters
    ----------
    max_steps, learning_rate, tolerance, batches, n_draws, learn_scales
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
        As for `MAP`. "elbo" gives the standard deviations a posterior like all other latents; with
        weak factors, the ELBO then prefers to have none.

    Raises
    ------
    FitError
        If an option is not valid, or ``learn_scales="elbo"`` is given with a guide.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is not None and not callable(self.guide):
            raise FitError(f"guide must be a Pyro guide or a guide class, not {self.guide!r}.")
        if self.guide is not None and self.learn_scales == "elbo":
            raise FitError(
                "A guide of your own learns all scales: leave out either guide or learn_scales."
            )


@dataclass(frozen=True)
class Chains:
    """Options of methods that draw from the posterior by Markov chains; use `Gibbs` or `NUTS`.

    Parameters
    ----------
    n_draws : int
        Number of draws of each chain, at least 4.
    n_warmup : int
        Number of steps of each chain before its draws. They tune the sampler and are not kept.
    n_chains : int
        Number of chains.
    thin : int
        Number of steps for each draw; the others are not kept, which saves memory.
    n_jobs : int
        Number of chains that run at once, each in a process of its own; -1 stands for the number
        of cores. The cores are shared out among the processes. The same seed gives the same
        numbers, to the last bit where torch has as many threads in a process as it has here (after
        ``torch.set_num_threads(1)``, always). A
        process takes some seconds to start, about 0.5 GB and a copy of the ratings, and models
        are sent to it by cloudpickle: changes that a model makes to itself stay there. The
        callback of the fit is called when draws of a chain come back, about once a second after
        its warm-up, and its ``step`` counts the steps of all chains. Ctrl-C ends all chains after
        their present steps. If one fails or is killed, all end and `fit` raises a `FitError` that
        names it; with a checkpoint, ``resume=True`` continues. On a GPU, chains run one after the
        other in any case. In a script that `torchrun` starts, the processes share each chain
        instead: leave ``n_jobs`` out.

    Raises
    ------
    FitError
        If an option is not valid.
    """

    n_draws: int = 500
    n_warmup: int | None = 500
    n_chains: int = 2
    thin: int | None = 1
    n_jobs: int = 1
    _chooses_sweeps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_integer("n_draws", self.n_draws, least=4, error=FitError)
        require_integer("n_chains", self.n_chains, error=FitError)
        for name in ("n_warmup", "thin"):
            if not (getattr(self, name) is None and self._chooses_sweeps):
                require_integer(name, getattr(self, name), error=FitError)
        if self.n_jobs != -1:
            require_integer("n_jobs (unless it is -1)", self.n_jobs, error=FitError)

    def warmup_of(self, n_ratings: int, n_rows: int) -> int:
        """Return the number of steps of each chain before its draws.

        Parameters
        ----------
        n_ratings, n_rows : int
            Number of training ratings, and of users or items, whichever are more.
        """
        if self.n_warmup is not None:
            return self.n_warmup
        return min(max(_LEAST_WARMUP * _MANY * n_rows // n_ratings, _LEAST_WARMUP), _MOST_WARMUP)

    def thin_of(self, n_ratings: int) -> int:
        """Return the number of steps of each chain for each of its draws.

        Parameters
        ----------
        n_ratings : int
            Number of training ratings.
        """
        if self.thin is not None:
            return self.thin
        return min(max(_SWEPT // n_ratings, 1), _MOST_THIN)


@dataclass(frozen=True)
class NUTS(Chains):
    """Pyro's No-U-Turn sampler: draws from the exact posterior, all standard deviations learnt.

    Chains start from the prior and run on the CPU, in minutes for a few hundred ratings. They are
    the reference for the faster methods.

    Parameters
    ----------
    n_draws, n_warmup, n_chains, thin, n_jobs
        See `Chains`.

    Raises
    ------
    FitError
        If an option is not valid.
    """


@dataclass(frozen=True)
class Gibbs(Chains):
    """Blocked Gibbs sampling: draws from the exact posterior, all standard deviations learnt.

    Each sweep draws whole blocks of latents given the others: all users, all items, all effects,
    scales and noise. It takes about the time of a few fits by `VI`, needs no start and no tuning,
    and predicts best. It takes a `PMF` with any options and likelihood of this package. Other
    models go to `NUTS`.

    Parameters
    ----------
    n_draws : int
        Number of draws of each chain.
    n_warmup : int, optional
        Number of sweeps of each chain before its draws. By default 30 where users and items have
        ten ratings or more on average: predictions suffer more from few draws than from early
        ones. Where users, or items, have fewer, factors form slowly, and there are more sweeps in
        proportion, up to 150. The sampler adapts in the first 40 at most, and not in the last 5;
        with fewer than 30, its first draws may be far from the posterior.
    n_chains : int
        Number of chains. They start apart, at random factors and scales.
    thin : int, optional
        Number of sweeps for each draw; the others are not kept. By default 1, but where a table
        has fewer than 50,000 ratings, there are more sweeps in proportion, up to 4: they take
        little time there, and draws that are further apart tell more.
    n_jobs : int
        See `Chains`.
    track : Ratings or pandas.DataFrame, optional
        Pairs of training users and items whose predictions are averaged over all sweeps after the
        warm-up, kept or not: ``posterior.tracked`` has mean and sd of each rating. With few
        draws and a large ``thin``, this predicts as well as all draws would, in little memory.

    Raises
    ------
    FitError
        If an option is not valid.

    Examples
    --------
    >>> from pyro_pmf import Gibbs
    >>> method = Gibbs(n_draws=200)
    >>> method.warmup_of(n_ratings=10_000, n_rows=2_000), method.thin_of(n_ratings=20_000)
    (60, 2)
    """

    n_draws: int = 100
    n_warmup: int | None = None
    thin: int | None = None
    track: Ratings | IntoFrame | None = None
    _chooses_sweeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.track is not None and not (
            isinstance(self.track, Ratings) or is_frame(self.track)
        ):
            raise FitError(f"track must be Ratings or a DataFrame of pairs, not {self.track!r}.")


Method = MAP | VI | Gibbs | NUTS
_BY_NAME: dict[str, Method] = {"map": MAP(), "vi": VI(), "gibbs": Gibbs(), "nuts": NUTS()}


def as_method(method: str | Method) -> Method:
    """Return a method from its name, or the method itself.

    Parameters
    ----------
    method : str or MAP, VI, Gibbs, NUTS
        "map", "vi", "gibbs" or "nuts", or a method.

    Returns
    -------
    MAP, VI, Gibbs or NUTS
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
        f"method must be one of {names}, or MAP(...), VI(...), Gibbs(...) or NUTS(...), "
        f"not {method!r}."
    )
