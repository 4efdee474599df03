"""What a fit optimises: a model, a guide and an ELBO, and how the answer is read off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import ELBO, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_pmf.centring import centring
from pyro_pmf.elbo import GaussianELBO, integrated_traces
from pyro_pmf.errors import FitError
from pyro_pmf.gaussian import Gaussian, NoClosedForm, Uncertain, Value
from pyro_pmf.guides import NormalGuide, initial_value, is_positive, is_real
from pyro_pmf.memory import fit_memory, require_memory
from pyro_pmf.models import PMF
from pyro_pmf.pairs import Pairs
from pyro_pmf.prediction import run, takes_history
from pyro_pmf.ratings import Ratings
from pyro_pmf.recording import NotRecordable, Recording
from pyro_pmf.scales import factor_scales, map_scales

# What the model may raise when its latents are random quantities and it needs tensors.
_NEEDS_TENSORS = (NoClosedForm, TypeError, AttributeError)


@dataclass(frozen=True)
class Objective:
    """The loss of a fit, minus an ELBO, on training ratings; made by `pose`.

    Attributes
    ----------
    stated : callable
        The model as the caller states it.
    model : callable
        The same as it is fitted, with some sites held and others reparametrized.
    guide : callable
        Of ``model``.
    elbo : ELBO
        `GaussianELBO` where model and guide allow it.
    ratings : Ratings
    held : dict of str to Tensor
        Sites that ``model`` has been conditioned on.
    """

    stated: Callable[..., Any]
    model: Callable[..., Any]
    guide: Callable[..., Any]
    elbo: ELBO
    ratings: Ratings
    held: dict[str, Tensor]

    def loss(self, block: Pairs | None = None, n_blocks: int = 1) -> Tensor:
        """Minus the ELBO, in nats.

        Parameters
        ----------
        block : Pairs, optional
            Look at these ratings only, one of the blocks that all ratings are cut into, and count
            them ``n_blocks`` times. Over the blocks, that averages to the loss of all ratings,
            whatever their sizes: scaling by the number of ratings would not, for blocks of
            unequal size drawn equally often. I_ij still stands for all ratings.
        n_blocks : int
        """
        if block is None:
            return self.elbo.differentiable_loss(self.model, self.guide, self.ratings)
        history = {"history": self.ratings} if takes_history(self.model) else {}
        with _Counted(n_blocks):
            return self.elbo.differentiable_loss(self.model, self.guide, block, **history)

    def gradient(
        self, parameters: Sequence[Tensor], block: Pairs | None = None, n_blocks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, as one vector."""
        loss = self.loss(block, n_blocks)
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), torch.cat([part.flatten() for part in parts])

    def recorded_gradient(self, parameters: Sequence[Tensor]) -> Recording | None:
        """`gradient`, recorded; None where it cannot be, or is another at every call."""
        if not isinstance(self.elbo, GaussianELBO):
            return None
        try:
            recording = Recording(lambda: self.gradient(parameters), varying=parameters)
        except NotRecordable:
            return None
        # A loss that changes by itself is not recorded; a GPU may add in another order, though.
        again, rounding = self.loss(), 0.0 if self.ratings.device.type == "cpu" else 1e-5
        same = torch.isclose(recording.first[0], again, rtol=rounding, atol=0.0)
        return recording if same and not recording.is_random else None

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Names and unconstrained values of the parameters, which a first evaluation makes."""
        with poutine.trace(param_only=True) as capture:
            self.loss()
        found = [
            (name, node["value"].unconstrained()) for name, node in capture.trace.nodes.items()
        ]
        if not found:
            raise FitError("Nothing to fit: neither the model nor the guide has a parameter.")
        return found

    @cached_property
    def latent_sites(self) -> dict[str, Distribution]:
        """The latent sites of the model, as it is fitted, and their priors."""
        return self._priors(self.model)

    @cached_property
    def stated_sites(self) -> dict[str, Distribution]:
        """The latent sites of the model, as it is stated, that are not held, and their priors."""
        priors = self._priors(self.stated).items()
        return {name: prior for name, prior in priors if name not in self.held}

    def _priors(self, model: Callable[..., Any]) -> dict[str, Distribution]:
        trace = prune_subsample_sites(poutine.trace(model).get_trace(self.ratings))
        return {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}

    def is_of_scale(self, parameter: str) -> bool:
        """Whether a parameter is that of a positive site, by the names that autoguides give."""
        return any(
            parameter.endswith(f".{name}") and is_positive(fn.support)  # names may have dots, too
            for name, fn in self.latent_sites.items()
        )

    def is_point_estimate(self) -> bool:
        """Whether the guide puts each site, auxiliary ones too, at one value."""
        trace = prune_subsample_sites(poutine.trace(self.guide).get_trace(self.ratings))
        sites = (site["fn"] for _, site in trace.iter_stochastic_nodes())
        return all(isinstance(_base(fn), Delta) for fn in sites)

    @property
    def scalar_scales(self) -> list[str]:
        """The latent sites that are one positive number each."""
        return [
            name
            for name, fn in self.latent_sites.items()
            if is_positive(fn.support) and not fn.batch_shape + fn.event_shape
        ]

    def why_not_finite(self) -> str:
        """Say which site makes the loss infinite or NaN."""
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
        bad = [name for name, term in terms.items() if not term.isfinite()]
        return ", ".join(bad or [name for name, x in self.parameters() if not x.isfinite().all()])

    def latents(self, num_draws: int) -> tuple[dict[str, Value], bool]:
        """What was learnt of each latent site, on the CPU, and whether it is draws."""
        with torch.no_grad():
            closed = self._closed_form() if isinstance(self.elbo, GaussianELBO) else None
            if closed is not None and self._can_predict_from(closed):
                return {name: _to_cpu(value) for name, value in closed.items()}, False
            return {name: _to_cpu(value) for name, value in self._draws(num_draws).items()}, True

    def _closed_form(self) -> dict[str, Value] | None:
        """The latents as random quantities or point estimates, if they all are.

        Of sites that the fit has reparametrized, these are the marginals.
        """
        model, guide = integrated_traces(self.model, self.guide, self.ratings)
        values: dict[str, Value] = dict(self.held)
        for name, prior in self.stated_sites.items():
            value = model.nodes[name]["value"]
            if isinstance(value, Tensor):
                if name in guide.nodes and not isinstance(_base(guide.nodes[name]["fn"]), Delta):
                    return None
                if is_real(prior.support):
                    value = Gaussian(value, torch.zeros_like(value))
            if isinstance(value, Gaussian):
                value = Gaussian(value.mean, value.var, frozenset({name}))
            values[name] = value
        return values

    def check_prediction(self) -> None:
        """Raise if the model cannot be run for pairs other than the training ratings."""
        draw = {name: value[0] for name, value in self._draws(1).items()}
        try:
            self._predict_from(draw)
        except Exception as error:
            raise FitError(
                "The model runs on the training ratings and not on new pairs, where ratings.value "
                "is None and n_users and n_items may be larger; its latents must be in no plate "
                f"of the ratings. It raised {type(error).__name__}: {error}"
            ) from error

    def _can_predict_from(self, values: dict[str, Value]) -> bool:
        try:
            self._predict_from(values)
        except _NEEDS_TENSORS:
            return False
        return True

    def _predict_from(self, values: Mapping[str, Value]) -> None:
        """Run the model on one known pair, one unknown user and one unknown item."""
        n, m = self.ratings.n_users, self.ratings.n_items
        user, item = torch.tensor([[0, 0, n], [0, m, 0]], device=self.ratings.device)
        pairs = Pairs(user, item, n + 1, m + 1, dtype=self.ratings.dtype)
        history = self.ratings.within(n + 1, m + 1)
        run(self.stated, values, pairs, history)

    def _draws(self, num_draws: int) -> dict[str, Tensor]:
        traces = []
        for _ in range(num_draws):
            guide = poutine.trace(self.guide).get_trace(self.ratings)
            replayed = poutine.replay(self.model, guide)
            traces.append(poutine.trace(replayed).get_trace(self.ratings))
        held = {name: value.expand(num_draws, *value.shape) for name, value in self.held.items()}
        return held | {
            name: torch.stack([trace.nodes[name]["value"] for trace in traces])
            for name in self.stated_sites
        }


def require_possible(model: Callable[..., Any], ratings: Ratings) -> dict[str, Any]:
    """Raise `FitError` if a model cannot have made these ratings; return its sites."""
    assert ratings.value is not None  # a fit has checked it
    if isinstance(model, PMF) and (fault := model.likelihood.fault(ratings.value)):
        raise FitError(f"Some ratings {fault}: {model.likelihood} cannot have made them.")
    sites = prune_subsample_sites(poutine.trace(model).get_trace(ratings)).nodes
    if "rating" not in sites or not sites["rating"].get("is_observed"):
        raise FitError(
            "The model needs a site 'rating' that is observed at the values of the ratings: "
            'pyro.sample("rating", ..., obs=ratings.value).'
        )
    return sites


def pose(
    model: Callable[..., Any],
    guide: str | Callable[..., Any],
    ratings: Ratings,
    batches: int = 1,
    scales: Mapping[str, float] | None = None,
) -> Objective:
    """Choose the guide and the ELBO for a model.

    Parameters
    ----------
    model, guide, ratings, batches
        As of `fit`.
    scales : mapping of str to float, optional
        Values at which guide "normal" holds standard deviations of a `PMF`, by site; those that
        it lacks are latents. If left out, those of `factor_scales`.

    Raises
    ------
    FitError
        If ``guide`` is not known or cannot fit the model, the model has no observed site
        ``rating``, or the fit would not fit into memory.
    """
    if isinstance(model, PMF) and guide == "delta":  # see `fit`
        model = replace(model, noise="shared")
    sites = require_possible(model, ratings)
    latents = [site["value"] for site in sites.values() if not site.get("is_observed", True)]
    n_parameters = sum(x.numel() for x in latents) * (1 if guide == "delta" else 2)
    require_memory(fit_memory(len(ratings), n_parameters, batches, ratings.dtype), ratings.device)
    held: dict[str, Tensor] = {}
    stated = model
    if isinstance(stated, PMF) and guide in ("normal", "delta"):
        latent = {name for name, site in sites.items() if not site.get("is_observed", True)}
        known: Mapping[str, Tensor | float]
        if guide == "delta":
            known = map_scales(ratings, stated.likelihood)
        else:
            known = factor_scales(stated, ratings.value) if scales is None else scales
        like = torch.empty((), dtype=ratings.dtype, device=ratings.device)
        held = {k: like.new_tensor(float(v)) for k, v in known.items() if k in latent}
        model = poutine.condition(model, data=held)
        model = poutine.reparam(model, centring(stated, ratings))
    family: Callable[..., Any]
    if guide == "delta":
        family = AutoDelta(model, init_loc_fn=initial_value)
    elif guide == "normal":
        family = NormalGuide(model, init_loc_fn=initial_value)
    elif not isinstance(guide, str | type) and callable(guide):
        family = guide
    else:
        raise FitError(f'guide must be "normal", "delta" or a Pyro guide, not {guide!r}.')
    elbo = _choose_elbo(model, family, ratings)
    return Objective(stated, model, family, elbo, ratings, held)


def _choose_elbo(model: Callable[..., Any], guide: Callable[..., Any], ratings: Ratings) -> ELBO:
    try:
        GaussianELBO().loss(model, guide, ratings)
    except _NEEDS_TENSORS as reason:
        warnings.warn(
            f"Falling back to Trace_ELBO, which samples: {reason} has no closed form here.",
            stacklevel=5,
        )
        return Trace_ELBO()
    return GaussianELBO()


class _Counted(Messenger):
    """Counts the observed ratings several times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == "rating":
            msg["scale"] = msg["scale"] * self.times


def _base(fn: Distribution) -> Distribution:
    return fn.base_dist if isinstance(fn, Independent) else fn


def _to_cpu(value: Value) -> Value:
    if isinstance(value, Uncertain):
        return value.map(lambda tensor: tensor.detach().clone().cpu())
    return value.detach().clone().cpu()
