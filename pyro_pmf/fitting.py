"""`fit`: learn a model's latents from ratings by a chosen method, and return a posterior."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.arguments import require_bool, require_seed
from pyro_pmf.data.frames import IntoFrame, is_frame
from pyro_pmf.data.history import with_history
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.shards import as_part
from pyro_pmf.data.transforms import Transform
from pyro_pmf.errors import FitError
from pyro_pmf.inference.checkpoint import Checkpoint, fingerprint_of, open_checkpoint
from pyro_pmf.inference.conditions import Conditions, as_device
from pyro_pmf.inference.mcmc.chains import sample_chains
from pyro_pmf.inference.mcmc.gibbs.kernel import is_known
from pyro_pmf.inference.mcmc.gibbs.typical import short_run
from pyro_pmf.inference.methods import MAP, NUTS, VI, Gibbs, Method, as_method
from pyro_pmf.inference.progress import progress_bar
from pyro_pmf.inference.scales import (
    Scales,
    as_typical,
    candidate_scales,
    factors_only,
    holdable,
    learnt_scales,
    widened,
)
from pyro_pmf.inference.variational.collapse import NO_FACTORS
from pyro_pmf.inference.variational.loop import fit_guide
from pyro_pmf.inference.variational.objective import usual_scales
from pyro_pmf.inference.variational.warm_start import Start
from pyro_pmf.isolation import alone, usual_torch
from pyro_pmf.model.choice import warn_of_far_prior
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.likelihoods import likelihood_of
from pyro_pmf.model.pmf import PMF, for_point_estimate
from pyro_pmf.model.running import require_possible, takes_history
from pyro_pmf.model.terms import TAU, LogNoise, terms_of
from pyro_pmf.moments.gaussian import LogGaussian
from pyro_pmf.posterior import Posterior
from pyro_pmf.prediction.tables import crps
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.reducer import Reducer, reducer_of_world
from pyro_pmf.sanity import checked

_FEWEST_TO_HOLD_OUT = 20  # ratings; a tenth of them is two
_MOST_TO_LEARN_FROM = 100_000  # ratings; those of fewer users say as much about scales
# Factor on the tolerance of fits that only compare scales.
_ROUGHER = 3.0


@dataclass(frozen=True)
class Progress:
    """State of a fit after one step, passed to its callback.

    Attributes
    ----------
    step : int
        Number of the step, from 1; of all chains together.
    elbo : float or None
        ELBO at the parameters before the step, in nats; None for chains.
    seconds : float
        Seconds since `fit` was called.
    posterior : callable
        ``posterior()`` returns the `Posterior` of the current parameters, or of the draws of
        the current chain.
    """

    step: int
    elbo: float | None
    seconds: float
    posterior: Callable[[], Posterior]


@usual_torch(gradients=True)
@alone()
def fit(
    model: Callable[..., Any],
    ratings: Ratings,
    method: str | Method = "vi",
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    progress: bool = True,
    callback: Callable[[Progress], None] | None = None,
    history: Ratings | IntoFrame | None = None,
    start: Posterior | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = False,
) -> Posterior:
    """Fit a model to ratings.

    In a script that `torchrun` starts, the processes share the fit of a `PMF` by `VI`, `MAP` or
    `Gibbs`. Each calls `fit` with the same arguments, and gets the whole posterior; or with the
    ratings of users that no other process has, and gets the posterior of these users and of all
    items.

    Parameters
    ----------
    model : callable
        A `PMF`, or a Pyro model ``model(ratings)`` or ``model(ratings, history=None)`` with a
        site ``rating`` observed at ``ratings.value``.
    ratings : Ratings
        The training ratings.
    method : {"vi", "map", "gibbs", "nuts"} or VI, MAP, Gibbs, NUTS
        Variational inference, a point estimate, or draws from the exact posterior. A name stands
        for the method with its default options.
    seed : int
        Seed of the fit. On the CPU, the same seed gives the same result. The caller's random state
        is left unchanged.
    device : {"auto", "cpu", "cuda"} or torch.device
        Device of the fit; "auto" takes a GPU if there is one. The posterior is on the CPU.
    dtype : torch.dtype, optional
        torch.float32 or torch.float64. The default is the dtype of ``ratings``; `NUTS` uses
        float64.
    progress : bool
        Whether to show a progress bar. Where stderr is neither a terminal nor a notebook, the
        logger "pyro_pmf" gets a line every few seconds and one at the end instead, of level INFO:
        ``logging.basicConfig(level=logging.INFO)`` shows them.
    callback : callable, optional
        Called with a `Progress` after each step of the fit, or of a chain; for ``n_jobs`` chains
        at once, when draws of one have come (see `Gibbs`). While scales are learnt from held-out
        ratings, only the last fit calls it.
    history : Ratings or table, optional
        Pairs known to be rated whose ratings are not known, see `Ratings.as_pairs`. A hierarchical
        model counts them among the pairs that were rated, with the training pairs, in the fit and
        in predictions. Their ratings, if any, are not looked at. Users and items without training
        ratings join ``posterior.ratings``. Scales that are learnt from held-out ratings are learnt
        without the history.
    start : Posterior, optional
        An earlier fit, from whose result `VI` or `MAP` begins, and whose standard deviations it
        holds; of the same model, and of some of the same users and items. Chains need no start;
        they begin apart, so that they can be compared.
    checkpoint : path-like or Checkpoint, optional
        A folder to which the state of the fit is written every minute, or as often as a
        `Checkpoint` says. A process that is killed at any moment leaves a whole state.
    resume : bool
        Whether to continue from the state in ``checkpoint``, if there is one. The fit then ends
        with the same numbers as without a break, on the same machine and with as many threads;
        ``callback`` sees the remaining steps. The posterior of a fit that has ended is returned
        again. A chain of `NUTS` is kept when it is complete, and begins anew otherwise.

    Returns
    -------
    Posterior
        ``posterior.model`` is the model that was fitted: a likelihood "auto" is chosen, and the
        spacing of levels is known. ``posterior.converged`` says whether the ELBO stopped rising
        before the step limit, or whether the chains have mixed. ``posterior.steps`` has one row
        per step or draw.

    Raises
    ------
    FitError
        If an argument is not valid or does not suit the model; if the model has no observed site
        ``rating`` or does not run on new pairs; if the likelihood cannot produce some ratings; if
        the fit needs more memory than is free; if the ELBO is not finite; if a point estimate
        collapses; if a chain in a process of its own fails; if processes cannot share this fit, or
        one of them ends; or if predictions are nonsense (not
        finite, or far more or less certain than any rating can be, see `sanity.checked`).
    RatingsError
        If there are too few ratings to hold some out for ``learn_scales="held_out"``.
    StorageError
        If ``checkpoint`` cannot be written, is damaged, or holds a saved posterior or another fit;
        or, without ``resume``, one that has not ended.
    KeyboardInterrupt
        If Ctrl-C ends the fit before there is a result: while scales are learnt, or before a
        chain has 4 draws.

    Warns
    -----
    UserWarning
        If the deterministic ELBO does not apply; if the mean rating is far from the prior of mu;
        if variational inference shrinks all factors to zero; if a checkpoint cannot be written any
        more; if the fit predicts the training ratings worse than their mean does; or if Ctrl-C
        ends it early. In the last two cases,
        ``posterior.converged`` is False. An interrupted fit returns its present parameters, or the
        draws so far, as many of each chain. A second Ctrl-C ends it without a result.

    Examples
    --------
    >>> from pyro_pmf import PMF, fit
    >>> from pyro_pmf.datasets import simulate
    >>> ratings, _ = simulate(PMF(2), n_users=30, n_items=20, n_ratings=300)
    >>> posterior = fit(PMF(0), ratings, progress=False)
    >>> bool(posterior.converged)
    True
    """
    method, resume = as_method(method), require_bool("resume", resume, FitError)
    check_arguments(model, ratings, seed, dtype, callback)
    seed = int(seed)
    if ratings.user.is_inference():  # made in torch's inference mode, which gradients refuse
        ratings = ratings.keep(np.ones(len(ratings), dtype=bool))
    reducer, part = reducer_of_world(), None
    if reducer.size > 1:
        _require_shareable(model, method)
        part = as_part(ratings, reducer)
    if part is not None:
        model, ratings = _for_part(model, part, reducer), part
    elif isinstance(model, PMF):
        model, ratings = model.for_ratings(ratings)
        warn_of_far_prior(model, ratings)
    if part is not None and history is not None:
        raise FitError("Give history= in a fit whose processes are given all ratings only.")
    if part is not None and isinstance(method, Gibbs) and method.track is not None:
        raise FitError("Give track= in a fit whose processes are given all ratings only.")
    ratings, seen = _with_history(model, ratings, history)
    shown = require_bool("progress", progress, FitError) and reducer.rank == 0
    run = Conditions(seed, as_device(device), dtype, shown, history=seen, reducer=reducer)
    run = replace(run, is_part=part is not None)
    if callback is not None:
        run = replace(run, on_step=_as_on_step(callback))
    if start is not None and (isinstance(method, Gibbs | NUTS) or not isinstance(start, Learned)):
        raise FitError(
            "start must be a posterior, and is for variational inference and MAP; chains begin "
            f"apart, so that they can be compared: leave start={start!r} out."
        )
    if start is not None:
        _require_same_model(model, start.model)
    what = model, ratings, method, seed, run.device, dtype, seen, start
    saved = open_checkpoint(checkpoint, resume, lambda: fingerprint_of(*what), reducer)
    if saved is not None:
        run = replace(run, checkpoint=saved, started=run.started - saved.seconds)
    if isinstance(method, Gibbs | NUTS):
        return checked(_as_posterior(_draw(model, ratings, method, run)))
    if start is None:
        scales, begin = _chosen(model, ratings, method, run)
    else:
        scales, begin = _held_by(start, method), Start.after(start, ratings)
    return checked(_as_posterior(fit_guide(model, ratings, method, run, scales, begin)))


def _require_shareable(model: Any, method: Method) -> None:
    """Refuse a fit that several processes cannot share."""
    if isinstance(method, NUTS):
        raise FitError(
            "Several processes cannot share chains of NUTS: run this in one process, without "
            "torchrun, and give n_jobs= for chains at once."
        )
    if isinstance(method, Gibbs) and method.n_jobs != 1:
        raise FitError(
            f"Several processes share each chain: leave n_jobs={method.n_jobs} out, or run this "
            "in one process, without torchrun."
        )
    if type(model) is not PMF or (isinstance(method, VI) and method.guide is not None):
        raise FitError(
            "Several processes can share the fit of a PMF with the guide of the package only: run "
            "this in one process, without torchrun."
        )
    if isinstance(method, MAP | VI) and method.batches > 1:
        raise FitError(
            f"Several processes share all ratings in each step: leave batches={method.batches} "
            "out, or run this in one process, without torchrun."
        )


def _require_same_model(model: Any, earlier: Any) -> None:
    """Refuse to begin at the fit of a PMF with other terms, factors or likelihood."""
    if not (isinstance(model, PMF) and isinstance(earlier, PMF)):
        return
    both = [replace(x, noise="shared") for x in (model, earlier)]  # as MAP has it
    parts = [(x.n_factors, [term.site for term in x.terms], type(x.likelihood)) for x in both]
    if parts[0] != parts[1]:
        raise FitError(
            f"start is the fit of another model, {earlier}: give one of {model}, or leave start= "
            "out."
        )


def _for_part(model: Any, part: Ratings, reducer: Reducer) -> PMF:
    """Return the model that all processes fit, each to ratings of its own."""

    def choose() -> tuple[PMF, Transform]:
        fitted, ratings = model.for_ratings(part)
        return fitted, ratings.transform

    fitted, transform = reducer.first(choose)
    if transform != part.transform:  # by ratings that only the first process has
        raise FitError(
            f"The first process would fit {fitted.likelihood}, to another transform of its "
            "ratings: give all processes this likelihood, and Ratings of that transform."
        )
    return fitted


def _held_by(start: Posterior, method: MAP | VI) -> Scales | None:
    """Return the standard deviations that an earlier fit held; None if they were latents.

    A point estimate holds those of biases, too, which would collapse as latents.
    """
    held = {
        name: value.tolist()
        for name, value in start.latents.items()
        if name.startswith(("sigma", TAU)) and isinstance(value, Tensor)
    }
    if start.n_draws is not None or not held:
        return None
    if isinstance(method, MAP):
        for term in terms_of(start.model):
            scale = start.latents.get(getattr(term, "scale", ""))
            if isinstance(scale, LogGaussian) and not isinstance(term, LogNoise):
                held[term.scale] = scale.log_mean.exp().tolist()
    return held


def _with_history(
    model: Callable[..., Any], ratings: Ratings, history: Ratings | IntoFrame | None
) -> tuple[Ratings, Pairs | None]:
    """Return the ratings, indexed with the ids of the history, and all pairs that were rated."""
    if history is not None and not (isinstance(history, Ratings) or is_frame(history)):
        raise FitError(f"history must be Ratings or a DataFrame of pairs, not {history!r}.")
    if history is not None and not takes_history(model):
        raise FitError(
            "This model takes no history, so it cannot use pairs without ratings: leave history "
            "out, or write it as model(ratings, history=None)."
        )
    ratings, seen = with_history(ratings, history)
    return ratings, None if seen is None else seen.to("cpu")


def _as_posterior(learned: Learned) -> Posterior:
    return Posterior(**vars(learned))


def _as_on_step(callback: Callable[[Progress], None]) -> Callable[..., None]:
    """Wrap the user's callback for the loop, which does not know `Posterior`."""

    def on_step(row: dict[str, Any], learned: Callable[[], Learned]) -> None:
        callback(Progress(**row, posterior=lambda: _as_posterior(learned())))

    return on_step


def _draw(
    model: Callable[..., Any], ratings: Ratings, method: Gibbs | NUTS, run: Conditions
) -> Learned:
    """Draw from the posterior by Markov chains."""
    if isinstance(method, NUTS):  # cheap for few ratings, for which alone it is quick enough
        return sample_chains(model, ratings.to("cpu", run.dtype or torch.float64), method, run)
    return sample_chains(model, ratings.to(run.device, run.dtype), method, run)


def _chosen(
    model: Any, ratings: Ratings, method: MAP | VI, run: Conditions
) -> tuple[Scales | None, Start | None]:
    """Return the standard deviations that a fit holds, and where it begins."""

    def learn() -> tuple[Scales | None, dict[str, Any] | None]:
        scales, start = _learn_scales(model, ratings, method, run)
        return scales, None if start is None else vars(start)

    if run.checkpoint is None:
        scales, parts = run.reducer.first(learn)
    else:
        scales, parts = run.checkpoint.once("scales", learn)
    if parts is None:
        return scales, None
    start = Start(**parts)
    if run.is_part and run.reducer.rank > 0:  # its users are those of the first process
        start = start.of_strangers(ratings.n_users)
    return scales, start


def _learn_scales(
    model: Any, ratings: Ratings, method: MAP | VI, run: Conditions
) -> tuple[Scales | None, Start | None]:
    """Choose the standard deviations that a fit holds, and where it begins; None for the usual."""
    if method.learn_scales == "elbo":
        if not terms_of(model):
            raise FitError('learn_scales="elbo" needs a PMF: leave learn_scales out.')
        return {}, None
    own_guide = isinstance(method, VI) and method.guide is not None
    if method.learn_scales is None or own_guide or not is_known(model):
        return None, None
    stated = cast(PMF, for_point_estimate(model) if isinstance(method, MAP) else model)
    with isolated_random_state(run.seed):
        require_possible(stated, ratings)
    some = ratings.of_some_users(_MOST_TO_LEARN_FROM, run.seed)
    usual = usual_scales(stated, some, method)
    if not usual:
        return None, None
    few = len(some) < _FEWEST_TO_HOLD_OUT
    train, test = (some, some) if few else some.split(0.1, run.seed)
    quick = replace(method, tolerance=_ROUGHER * method.tolerance, learn_scales=None)
    quiet = replace(run, progress=False, on_step=None, history=None)
    quiet = replace(quiet, checkpoint=None, interruptible=False, reducer=Reducer(), is_part=False)
    number = itertools.count(1)
    best: tuple[float, Learned | None] = math.inf, None  # the least loss, and its fit

    def start(scales: Scales, of: Ratings) -> Start:
        held, typical = (torch.tensor(x.get(TAU, 1.0)) for x in (scales, found.scales))
        begin = Start.at(found.last, train, of)
        return begin.with_tau(stated.terms, held, typical).of_one_side()

    def loss(scales: Scales) -> float:
        nonlocal best
        bar.set_postfix_str(f"candidate {next(number)}")
        bar.update(0)  # no sweep, but a sign of life
        try:
            begin = start(scales, train)
            fitted = fit_guide(model, train, quick, quiet, scales, begin)
        except FitError:  # with these scales the fit collapses; with others it may not
            return math.inf
        value = crps(fitted, test)
        if value < best[0]:
            best = value, fitted
        return value

    def loss_of_wider(factor: float) -> float:
        chosen = cast(Learned, best[1])
        sigma = factor * cast(Tensor, chosen.latents["sigma"])
        return crps(replace(chosen, latents={**chosen.latents, "sigma": sigma}), test)

    with warnings.catch_warnings(), progress_bar("scales", run.progress, unit="sweep") as bar:
        warnings.filterwarnings("ignore", NO_FACTORS)  # other values may find factors
        on_device = train.to(run.device, run.dtype)
        found = short_run(stated, on_device, run.seed, bar.update)
        typical = holdable(stated.terms, ratings.transform, found.scales)
        if few:
            scales = as_typical(usual, typical)
            return scales, start(scales, ratings)
        ways = candidate_scales(stated.terms, usual, typical, isinstance(method, MAP))
        scales = learnt_scales(ways, loss, partial(factors_only, usual))
        if isinstance(method, MAP) and best[1] is not None:
            scales = widened(stated, scales, loss_of_wider)
        return scales, start(scales, ratings)


def check_arguments(
    model: Callable[..., Any],
    ratings: Ratings,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> None:
    """Refuse arguments of `fit` that cannot be fitted.

    Parameters
    ----------
    model, ratings, seed, dtype, callback
        As for `fit`.

    Raises
    ------
    FitError
        If there is such an argument.
    """
    if isinstance(model, Ratings):
        raise FitError("Give the model first, then the ratings: fit(model, ratings).")
    if not callable(model) or isinstance(model, type):
        raise FitError(f"The model must be a PMF, such as PMF(), or a Pyro model, not {model!r}.")
    if not isinstance(ratings, Ratings):
        raise FitError(
            f"Give Ratings, not a {type(ratings).__name__}: Ratings.from_frame(frame) makes them "
            "from a table, Ratings.read(path) from a file."
        )
    if ratings.value is None:
        raise FitError(
            "These pairs have no ratings, so there is nothing to learn. If each only says that a "
            "user took an item, fit Ratings.from_frame(pyro_pmf.data.with_sampled_negatives("
            "ratings))."
        )
    if len(ratings) < 2 or ratings.value.min() == ratings.value.max():
        raise FitError(
            "These ratings do not differ, so there is nothing to learn: give at least two values. "
            "If each only says that a user took an item, fit Ratings.from_frame("
            "pyro_pmf.data.with_sampled_negatives(ratings))."
        )
    if (dtype or ratings.dtype) not in (torch.float32, torch.float64):
        raise FitError(
            f"dtype must be torch.float32 or torch.float64, not {dtype or ratings.dtype}."
        )
    require_seed(seed, error=FitError)
    if callback is not None and not callable(callback):
        raise FitError(f"callback must be a function of a Progress, not {callback!r}.")
    likelihood = likelihood_of(model)
    if likelihood is not None and likelihood.has_bounds and not ratings.transform.bounds:
        raise FitError(
            f"These ratings have no lowest and no highest value, and {likelihood} needs both. "
            'Give PMF(likelihood=NormalIdentity()), or make the Ratings with transform="unit"; '
            'for counts, transform="count" with PMF(likelihood=NegativeBinomialLog()).'
        )
