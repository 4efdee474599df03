"""One chain of the blocked sampler: its sweeps, and the draw of all sites after each."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_pmf.data.blocks import blocks_of, number_of_blocks
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs import invariances
from pyro_pmf.inference.mcmc.gibbs.axis import Axes
from pyro_pmf.inference.mcmc.gibbs.block import Grouped
from pyro_pmf.inference.mcmc.gibbs.initial import initial_state
from pyro_pmf.inference.mcmc.gibbs.level import draw_level
from pyro_pmf.inference.mcmc.gibbs.means import Compensation, draw_mean
from pyro_pmf.inference.mcmc.gibbs.noise import draw_noise
from pyro_pmf.inference.mcmc.gibbs.rows import RowUpdate
from pyro_pmf.inference.mcmc.gibbs.scales import draw_factor_scales, draw_scales
from pyro_pmf.inference.mcmc.gibbs.state import Side
from pyro_pmf.inference.mcmc.gibbs.sums import SumsUpdate, draw_effects
from pyro_pmf.inference.mcmc.gibbs.working import LogisticWorking
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen

_HELD = 8  # first sweeps, which hold the scales: rows must find their places first
_SAFE = 15  # first sweeps, which draw rows without correction
_ADAPTED = 40  # first sweeps, in which steps adapt and the running mean forgets
_SETTLED = 5  # last sweeps before the draws, in which rows forget how they were adapted
_RENEWED = 16  # sweeps after which scores are computed anew, so that rounding does not add up
_MEMORY = 6  # sweeps that the running mean remembers while it forgets


class Sampler:
    """Blocked sampler of the posterior of a `PMF`; see the package's documentation.

    Each sweep draws whole blocks given the rest: all rows of U with b, the effects W, the scales;
    the same for items; then the moves that ratings cannot see, the noise, and the cut points.
    Every block leaves the posterior unchanged after the first sweeps, in which steps adapt.

    Parameters
    ----------
    model : PMF
        The model.
    ratings : Pairs
        The training ratings, with values, on the device of the fit.
    history : Pairs
        The pairs with I_ij = 1.
    generator : numpy.random.Generator
        Source of randomness of single numbers; arrays use torch's random state.
    axes : (Axis, Axis), optional
        The users and the items, if processes share the chain: ``ratings`` and ``history`` are of
        the users of this process then, and each process calls each method.
    n_warmup : int, optional
        Number of sweeps before the draws: nothing adapts in the last 5 of them. By default, the
        first 40 sweeps adapt.

    Raises
    ------
    FitError
        If the likelihood is not one of the package's, or the model has terms of its own.
    """

    def __init__(
        self,
        model: PMF,
        ratings: Pairs,
        history: Pairs,
        generator: np.random.Generator,
        axes: Axes | None = None,
        n_warmup: int | None = None,
    ) -> None:
        self.model = model
        self.state = initial_state(model, ratings, generator, axes)
        self.n_sweeps = 0
        most = _ADAPTED if n_warmup is None else max(n_warmup - _SETTLED, 1)
        self._held, self._safe, self._adapted = (min(x, most) for x in (_HELD, _SAFE, _ADAPTED))
        by_users, by_items = self.state.users.groups, self.state.items.groups
        if history is not ratings and any(side.has(SumOverSeen) for side, _ in self.state.sides):
            cut = blocks_of(history, number_of_blocks(history))
            by_users = [Grouped.by_users(each) for each in cut]
            by_items = [Grouped.by_items(each) for each in cut]
        counts = history.user_counts, history.item_counts
        self._sums = [
            self._sums_of(self.state.users, by_users, by_items, counts[0]),
            self._sums_of(self.state.items, by_items, by_users, counts[1]),
        ]
        self._compensations = [
            self._compensation_of(side, sums)
            for (side, _), sums in zip(self.state.sides, self._sums, strict=True)
        ]

    def sweep(self) -> None:
        """Draw all blocks once."""
        state, n = self.state, self.n_sweeps
        safe, adapt, free = n < self._safe, n < self._adapted, n >= self._held
        if n % _RENEWED == 0:
            state.compute_scores()
        for k, (side, other) in enumerate(state.sides):
            RowUpdate(state, side, other)(safe, adapt)
            if (sums := self._sums[k]) is not None:
                draw_effects(state, side, sums)
            draw_mean(state, side, self._compensations[k])
            if free:
                if k == 0:
                    draw_factor_scales(state)
                draw_scales(state, side)
        self._move_freely(free)
        if free:
            draw_noise(state)
            draw_level(state, adapt)
        self._move_centre()
        self.n_sweeps = n + 1

    def draw(self) -> dict[str, Tensor]:
        """Return the present values of all latent sites of the model."""
        state, like = self.state, self.state.users.F
        values: dict[str, Tensor] = {}
        for side, _ in state.sides:
            rows = {Factor: side.F, Bias: side.b, LogNoise: side.s, SumOverSeen: side.W}
            for kind, term in side.terms.items():
                values[term.site] = rows[kind]
            if side.mean is not None:
                values[side.mean_site] = side.mean
        numbers = dict(state.scales)
        numbers["mu"], numbers["sigma"] = state.mu, float(np.exp(state.log_sigma))
        values |= {x: like.new_tensor(y) for x, y in numbers.items() if state.is_free(x)}
        if state.is_free(TAU):
            values[TAU] = state.users.tau
        if isinstance(state.likelihood, LogisticWorking) and state.likelihood.is_ordered:
            values["shares"] = _shares(state.likelihood.cutpoints)
        return values

    def log_likelihood(self) -> float:
        """Return the log likelihood of the training ratings, in nats."""
        return self.state.total(lambda block: block.log_prob)

    def _move_freely(self, free: bool) -> None:
        """Move along the directions that leave all scores alone."""
        state = self.state
        if state.n_factors:
            invariances.exchange_columns(state)
            if free:
                invariances.exchange_factor_scales(state)
                invariances.exchange_scales(state)
                invariances.exchange_tau(state)
                for (side, other), how in zip(state.sides, self._compensations, strict=True):
                    invariances.shift_factors(state, side, other, how)
        if free:
            for side, _ in state.sides:
                invariances.shift_level(state, side)
                invariances.exchange_noise(state, side)

    def _move_centre(self) -> None:
        """Update the running mean of the scores, at which likelihoods are expanded."""
        state, n = self.state, self.n_sweeps - self._safe
        if n < 0:
            state.move_centre(1.0)
            return
        past_adaptation = self.n_sweeps - self._adapted
        weight = 1 / (min(n + 2, _MEMORY) if past_adaptation < 0 else past_adaptation + _MEMORY)
        state.move_centre(weight)

    def _sums_of(
        self, side: Side, by_rows: list[Grouped], by_columns: list[Grouped], counts: Tensor
    ) -> SumsUpdate | None:
        if not side.has(SumOverSeen):
            return None
        weights = self.model.divide_by(counts.clamp(min=1).double()).reciprocal()
        weights = weights.to(side.F)  # a row without pairs has a sum of 0
        return SumsUpdate(by_rows, by_columns, weights, side.rows, side.columns)

    def _compensation_of(self, side: Side, sums: SumsUpdate | None) -> Compensation:
        scales, effects = self.state.scales, side.terms.get(SumOverSeen)
        variance = scales[side.terms[Factor].scale] ** 2 if side.has(Factor) else 1.0
        effect_variance = 0.0 if effects is None else scales[effects.scale] ** 2
        return Compensation(side, sums, variance, effect_variance)


def _shares(cutpoints: Tensor) -> Tensor:
    """Return the probabilities of the levels at a score of 0, from the cut points."""
    cuts = F.pad(F.pad(cutpoints.double(), (1, 0), value=-torch.inf), (0, 1), value=torch.inf)
    low, high = cuts[:-1], cuts[1:]
    flipped = low > 0  # so that the rare levels of either end keep their digits
    low, high = torch.where(flipped, -high, low), torch.where(flipped, -low, high)
    return (torch.sigmoid(high) - torch.sigmoid(low)).to(cutpoints)
