"""Moments, or a point estimate, of some rows given all other latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import warn
from pyro_pmf.inference.centring import centring
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.methods import MAP, VI
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.inference.variational.loop import Loop
from pyro_pmf.inference.variational.objective import Objective
from pyro_pmf.inference.variational.warm_start import Start, WarmStart
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import with_history
from pyro_pmf.model.terms import Terms
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value
from pyro_pmf.random_state import isolated_random_state

_TOLERANCE = 1e-4  # nats per rating: rows are small beside a whole fit, and so is the error
_MAX_STEPS = 1000


class GuideOfRows(NormalGuide):
    """Mean-field guide of some sites, with the distributions of the others known.

    Parameters
    ----------
    model : callable
        The Pyro model.
    known : mapping of str to Gaussian or LogGaussian
        Distributions of the other latent sites.
    terms : Terms
        Terms of the model.
    initial : callable
        Initial value of a site.
    """

    def __init__(
        self, model: Any, known: Mapping[str, Gaussian | LogGaussian], terms: Terms, initial: Any
    ) -> None:
        super().__init__(poutine.block(model, hide=list(known)), init_loc_fn=initial)
        self.known, self.terms = dict(known), terms

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments are those of the model."""
        values = {
            name: pyro.sample(name, _distribution(value, name, self.terms))
            for name, value in self.known.items()
        }
        return values | super().forward(*args, **kwargs)


def learn_rows(
    learned: Learned, ratings: Ratings, seen: Pairs, free: list[str], run: Conditions
) -> dict[str, Value]:
    """Return the rows of some sites given all other latents, by the objective of the fit.

    Parameters
    ----------
    learned : Learned
        A fit by variational inference or MAP whose rows are those of ``ratings``.
    ratings : Ratings
        Ratings of the rows.
    seen : Pairs
        The pairs with I_ij = 1, in the matrix of ``ratings``.
    free : list of str
        Sites to learn, all on one plate. They begin at their values in ``learned``.
    run : Conditions
        Conditions of the fit.

    Returns
    -------
    dict of str to Gaussian or Tensor
        By site.

    Warns
    -----
    UserWarning
        If the ELBO still rises after 1,000 steps.
    """
    terms = learned.model.terms  # type: ignore[attr-defined]  # the caller has a PMF
    others = {name: value for name, value in learned.latents.items() if name not in free}
    known = {
        name: value
        for name, value in others.items()
        if isinstance(value, Gaussian | LogGaussian) and _is_random(value)
    }
    held = {name: _point(value) for name, value in others.items() if name not in known}
    is_point = not any(_is_random(learned.latents[name]) for name in free)
    method = MAP(_MAX_STEPS) if is_point else VI(_MAX_STEPS, tolerance=_TOLERANCE)
    with isolated_random_state(run.seed), pyro.get_param_store().scope():
        fitted: Any = poutine.condition(with_history(learned.model, seen), data=held)
        coordinates = centring(learned.model, ratings)
        if mine := {site: how for site, how in coordinates.items() if site in free}:
            fitted = poutine.reparam(fitted, mine)
        warm = WarmStart(Start.after(learned, ratings), terms, initial_value)
        guide: Any
        if is_point:
            guide = AutoDelta(fitted, init_loc_fn=warm.value)
        else:
            guide = GuideOfRows(fitted, known, terms, warm.value)
            guide.set_up(ratings)
            warm.set_scales(guide)
        objective = Objective(learned.model, fitted, guide, GaussianELBO(), ratings, held)
        loop = Loop(objective, method, run, ratings)
        with pyro.validation_enabled(False):
            while not loop.is_at_its_end():
                loop.step()
            loop.check_end()
        if not loop.optimizer.finished:
            warn(f"Rows have not converged after {_MAX_STEPS} steps: fit all ratings again.")
        found = loop.learned()
    return {name: found.latents[name] for name in free}


def _is_random(value: Value) -> bool:
    if isinstance(value, Tensor):
        return False
    return bool(((value.log_var if isinstance(value, LogGaussian) else value.var) > 0).any())


def _point(value: Value) -> Tensor:
    if isinstance(value, LogGaussian):
        return value.log_mean.exp()
    return value if isinstance(value, Tensor) else value.mean


def _distribution(value: Gaussian | LogGaussian, name: str, terms: Terms) -> Any:
    if isinstance(value, LogGaussian):
        fn: Any = dist.LogNormal(value.log_mean, value.log_var.sqrt())
    else:
        fn = dist.Normal(value.mean, value.var.sqrt())
    term = terms.of_site(name)
    n_event = value.mean.dim() if term is None else int(term.is_vector)
    return fn.to_event(n_event) if n_event else fn
