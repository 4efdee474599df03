"""Objective of a fit: a model, a guide and an ELBO on training ratings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import ELBO, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.blocks import blocks_of, cells_of, number_of_blocks
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import FitError, warn
from pyro_pmf.inference.centring import centring
from pyro_pmf.inference.initialization import is_positive, with_large
from pyro_pmf.inference.memory import fit_memory, require_memory
from pyro_pmf.inference.methods import MAP, VI
from pyro_pmf.inference.recording import NotRecordable, Recording
from pyro_pmf.inference.scales import Scales, factor_scales, map_scales
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.inference.variational.blocks import BlockedELBO
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.sharing import (
    CountedOnce,
    is_own,
    shared_initial,
    shared_model,
)
from pyro_pmf.inference.variational.warm_start import Initial, Start, WarmStart
from pyro_pmf.model.pmf import PMF, for_point_estimate
from pyro_pmf.model.running import (
    is_latent,
    require_possible,
    runs_in_parts,
    takes_history,
    trace_of,
    with_history,
)
from pyro_pmf.model.terms import TAU, terms_of
from pyro_pmf.moments.expectations import unwrapped
from pyro_pmf.moments.gaussian import NoClosedForm
from pyro_pmf.random_state import isolated_random_state


@dataclass(frozen=True)
class Objective:
    """Loss of a fit, minus an ELBO, on training ratings; made by `pose`.

    Attributes
    ----------
    stated : callable
        The caller's model.
    model : callable
        The model that is fitted: ``stated`` with some sites held and others reparametrized.
    guide : callable
        Guide of ``model``.
    elbo : ELBO
        `GaussianELBO` if model and guide allow it, else Pyro's `Trace_ELBO`.
    ratings : Ratings, or Shard
        The training ratings, or the part of this process, on the device of the fit.
    held : dict of str to Tensor
        Values of the sites that ``model`` holds.
    sharing : Sharing, optional
        The part of this process in a fit that several share; `loss` is then its part of the sum.
    """

    stated: Callable[..., Any]
    model: Callable[..., Any]
    guide: Callable[..., Any]
    elbo: ELBO
    ratings: Pairs
    held: dict[str, Tensor]
    sharing: Sharing | None = None

    def loss(self, block: Pairs | None = None, n_blocks: int = 1) -> Tensor:
        """Return minus the ELBO, in nats.

        Parameters
        ----------
        block : Pairs, optional
            One of the blocks that the ratings are cut into. Only its ratings are used, each
            counted ``n_blocks`` times; the average over blocks is then the loss of all ratings,
            for blocks of any sizes. (Scaling by the number of ratings would not average
            to it, since unequal blocks are drawn equally often.) I_ij still stands for all
            ratings.
        n_blocks : int
            Number of blocks.

        Returns
        -------
        Tensor, shape ()
            Loss, with a gradient.
        """
        if block is None:
            with CountedOnce(self.sharing.reducer.size) if self.sharing else nullcontext():
                return self.elbo.differentiable_loss(self.model, self.guide, self.ratings)
        history = {"history": self.ratings} if takes_history(self.model) else {}
        with _Counted(n_blocks):
            return self.elbo.differentiable_loss(self.model, self.guide, block, **history)

    def gradient(
        self, parameters: Sequence[Tensor], block: Pairs | None = None, n_blocks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient, as one vector.

        Parameters
        ----------
        parameters : sequence of Tensor
            Parameters to differentiate by.
        block, n_blocks
            As for `loss`.

        Returns
        -------
        loss : Tensor, shape ()
            In nats.
        gradient : Tensor, shape (n_parameters,)
            Gradients of all parameters, one after the other.
        """
        loss = self.loss(block, n_blocks)
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), torch.cat([part.flatten() for part in parts])

    def recorded_gradient(self, parameters: Sequence[Tensor]) -> Recording | None:
        """Record `gradient`.

        Parameters
        ----------
        parameters : sequence of Tensor
            Parameters to differentiate by, whose values change in place.

        Returns
        -------
        Recording or None
            None if recording is impossible or the loss is random.
        """
        if not isinstance(self.elbo, GaussianELBO):
            return None
        try:
            gradient = partial(self.gradient, parameters)
            recording = Recording(gradient, parameters, self.ratings.scratch)
        except NotRecordable:
            return None
        # Do not record a loss that changes by itself; a GPU may sum in another order, though.
        again, rounding = self.loss(), 0.0 if self.ratings.device.type == "cpu" else 1e-5
        same = torch.isclose(recording.first[0], again, rtol=rounding, atol=0.0)
        return recording if same and not recording.is_random else None

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return names and unconstrained values of the parameters, which a first evaluation makes.

        Returns
        -------
        list of (str, Tensor)
            Names in Pyro's parameter store, and values.

        Raises
        ------
        FitError
            If neither the model nor the guide has a parameter.
        """
        with poutine.trace(param_only=True) as capture:
            self.loss()
        found = [
            (name, node["value"].unconstrained()) for name, node in capture.trace.nodes.items()
        ]
        if not found:
            raise FitError(
                "Nothing to fit: neither the model nor the guide has a parameter. Give a model "
                "with latents, and leave guide out or give a guide with parameters."
            )
        return found

    @cached_property
    def latent_sites(self) -> dict[str, Distribution]:
        """Priors of the latent sites of the fitted model, by site."""
        return {name: site["fn"] for name, site in self._latents.items()}

    @cached_property
    def stated_sites(self) -> dict[str, Distribution]:
        """Priors of the latent sites of the stated model, by site, without held sites."""
        sites = self._sites(self.stated)
        return {name: site["fn"] for name, site in sites.items() if name not in self.held}

    @cached_property
    def _latents(self) -> dict[str, Any]:
        return self._sites(self.model)

    def _sites(self, model: Callable[..., Any]) -> dict[str, Any]:
        """Return Pyro's latent sites of a model."""
        pairs, history = shown_by(model, self.stated, self.ratings)
        return dict(trace_of(model, pairs, **history).iter_stochastic_nodes())

    def is_of_scale(self, parameter: str) -> bool:
        """Return whether a parameter is of a positive site, by the names that autoguides give.

        Parameters
        ----------
        parameter : str
            Name in Pyro's parameter store.

        Returns
        -------
        bool
            Whether it is.
        """
        return any(
            parameter.endswith(f".{name}") and is_positive(fn.support)  # names may have dots, too
            for name, fn in self.latent_sites.items()
        )

    def is_of_users(self, parameter: str) -> bool:
        """Return whether a parameter is of a site of users.

        Parameters
        ----------
        parameter : str
            Name in Pyro's parameter store.
        """
        return any(
            parameter.endswith(f".{name}") and is_own(site) for name, site in self._latents.items()
        )

    def is_point_estimate(self) -> bool:
        """Return whether the guide puts each site, auxiliary ones included, at one value."""
        sites = trace_of(self.guide, self.ratings).iter_stochastic_nodes()
        return all(isinstance(unwrapped(site["fn"]), Delta) for _, site in sites)

    @property
    def scalar_scales(self) -> list[str]:
        """Names of the latent sites that are one positive number each."""
        return [
            name
            for name, fn in self.latent_sites.items()
            if is_positive(fn.support) and not fn.batch_shape + fn.event_shape
        ]

    def why_not_finite(self) -> str:
        """Return names of the sites, or else parameters, that make the loss infinite or NaN."""
        with torch.no_grad():
            if isinstance(self.elbo, GaussianELBO):
                terms = self.elbo.terms(self.model, self.guide, self.ratings)
            else:
                guide = poutine.trace(self.guide).get_trace(self.ratings)
                replayed = poutine.replay(self.model, trace=guide)
                trace = poutine.trace(replayed).get_trace(self.ratings)
                trace.compute_log_prob()
                terms = {
                    name: site["log_prob_sum"]
                    for name, site in trace.nodes.items()
                    if site["type"] == "sample"
                }
        bad = [name.removesuffix("_shifted") for name, x in terms.items() if not x.isfinite()]
        return ", ".join(bad or [name for name, x in self.parameters() if not x.isfinite().all()])


def pose(
    model: Callable[..., Any],
    ratings: Pairs,
    method: MAP | VI,
    scales: Scales | None = None,
    history: Pairs | None = None,
    start: Start | None = None,
    sharing: Sharing | None = None,
) -> Objective:
    """Choose the guide and the ELBO for a model.

    Parameters
    ----------
    model : callable
        The caller's model.
    ratings : Ratings
        The training ratings, on the device of the fit.
    method : MAP or VI
        Options of the fit.
    scales : dict, optional
        Values at which `MAP` and the default guide of `VI` hold standard deviations, by site; all
        others are latents. The default is `usual_scales`, and tau = 1; with an empty dict, tau
        is a latent too.
    history : Pairs, optional
        All pairs with I_ij = 1; by default those of the ratings.
    start : Start, optional
        Where the guide begins; its users are those of ``ratings``.
    sharing : Sharing, optional
        The part of this process in a fit that several share; ``ratings`` are then its shard, and
        ``history`` has the same users.

    Returns
    -------
    Objective
        The objective of the fit.

    Raises
    ------
    FitError
        If the guide cannot fit the model, the model has no observed site ``rating``, the
        likelihood cannot produce some ratings, or the fit needs more memory than is free.

    Warns
    -----
    UserWarning
        If the deterministic ELBO does not apply.
    """
    stated = for_point_estimate(model) if isinstance(method, MAP) else model
    n_blocks = _n_blocks(stated, ratings, method)
    blocks = blocks_of(ratings, n_blocks) if n_blocks > 1 else []
    if blocks:
        ratings = ratings.in_blocks(cells_of(blocks))
    with isolated_random_state(0):  # it draws for its own users, and shared values start alike
        sites = require_possible(stated, ratings)
    latents = {name: site["value"] for name, site in sites.items() if is_latent(site)}
    n_parameters = sum(x.numel() for x in latents.values()) * (1 if isinstance(method, MAP) else 2)
    in_files = ratings.scratch.is_mapped and n_blocks > 1
    n_kept = len(ratings) // 4 if in_files else len(ratings)  # weights of I_ij
    n_at_once = math.ceil(len(ratings) / max(method.batches, n_blocks))
    require_memory(fit_memory(n_kept, n_parameters, n_at_once, ratings.dtype), ratings.device)
    held: dict[str, Tensor] = {}
    terms = terms_of(stated)
    known = None if history is None else history.to(ratings.device, ratings.dtype)
    fitted = with_history(shared_model(stated, sharing) if sharing else stated, known)
    guide: Callable[..., Any]
    if isinstance(method, VI) and method.guide is not None:
        guide = method.guide(fitted) if isinstance(method.guide, type) else method.guide
    else:
        if scales is None:  # usual scales are those of factors that are all alike
            scales = {TAU: 1.0, **usual_scales(stated, ratings, method)}
        elif scales:  # with none of them, tau is learnt like all scales
            scales = {TAU: 1.0, **scales}
        like = torch.empty((), dtype=ratings.dtype, device=ratings.device)
        held = {
            name: like.new_tensor(x).expand(latents[name].shape)
            for name, x in scales.items()
            if name in latents
        }
        if held:
            fitted = poutine.condition(fitted, data=held)
        if reparametrized := centring(stated, ratings):
            fitted = poutine.reparam(fitted, reparametrized)
        learnt = [] if held else [TAU, *itertools.chain(*terms.factor_scales.values())]
        initial: Initial = with_large(learnt)
        initial = shared_initial(initial, sharing) if sharing else initial
        warm = None if start is None else WarmStart(start, terms, initial)
        guide = _guide(fitted, stated, ratings, method, initial, warm)
    blocked = BlockedELBO(cast(PMF, stated), ratings, blocks) if blocks else None
    elbo = _closed_form_or_not(blocked or GaussianELBO(), fitted, guide, ratings)
    return Objective(stated, fitted, guide, elbo, ratings, held, sharing)


def shown_by(
    model: Callable[..., Any], stated: Callable[..., Any], ratings: Pairs
) -> tuple[Pairs, dict[str, Pairs]]:
    """Return what to call a model or its guide with, to see all latents.

    Parameters
    ----------
    model, stated : callable
        The model, and the model as stated.
    ratings : Pairs
        The training ratings.

    Returns
    -------
    pairs : Pairs
        One rating if that will do: it takes least memory.
    history : dict of str to Pairs
        Keyword arguments.
    """
    if runs_in_parts(stated) and takes_history(model):
        return ratings.first_pair(), {"history": ratings}
    return ratings, {}


def _guide(
    model: Callable[..., Any],
    stated: Callable[..., Any],
    ratings: Pairs,
    method: MAP | VI,
    initial: Initial,
    warm: WarmStart | None,
) -> Callable[..., Any]:
    """Return the guide of a method, with its initial values."""
    family = AutoDelta if isinstance(method, MAP) else NormalGuide
    if warm is None:
        return family(model, init_loc_fn=initial)
    guide = family(model, init_loc_fn=warm.value)
    if isinstance(guide, NormalGuide):
        pairs, history = shown_by(model, stated, ratings)
        guide.set_up(pairs, **history)
        warm.set_scales(guide)
    return guide


def usual_scales(model: Callable[..., Any], ratings: Pairs, method: MAP | VI) -> Scales:
    """Return the values at which a fit holds standard deviations unless it learns them.

    Parameters
    ----------
    model : callable
        The model as stated for the method.
    ratings : Pairs
        The training ratings.
    method : MAP or VI
        Options of the fit.
    """
    if isinstance(method, MAP):
        return map_scales(model, ratings)
    return factor_scales(model, ratings.value)


def _n_blocks(stated: Callable[..., Any], ratings: Pairs, method: MAP | VI) -> int:
    """Return the number of blocks over which each step sums."""
    own_guide = isinstance(method, VI) and method.guide is not None
    in_turn = method.batches == 1 and ratings.device.type == "cpu"
    if own_guide or not (in_turn and runs_in_parts(stated)):
        return 1
    return number_of_blocks(ratings)


def _closed_form_or_not(
    elbo: GaussianELBO, model: Callable[..., Any], guide: Callable[..., Any], ratings: Pairs
) -> ELBO:
    try:
        elbo.loss(model, guide, ratings)
    except NoClosedForm as reason:
        warn(f"Falling back to Trace_ELBO, which samples: {reason} has no closed form here.")
        return Trace_ELBO()
    return elbo


class _Counted(Messenger):
    """Count the observed ratings several times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == "rating":
            msg["scale"] = msg["scale"] * self.times
