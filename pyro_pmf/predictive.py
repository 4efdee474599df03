"""The predictive distribution of ratings, the one object that every prediction and score reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scoringrules
import torch
from scipy.special import betainc, ndtr
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, NegativeBinomial, Normal

from pyro_pmf.arguments import require_probability
from pyro_pmf.errors import PMFError
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.transforms import Affine, Log1p, Transform

_CRPS_DRAWS = 200
_CRPS_PARTS = 100  # with more, those draws are as exact and faster
_CRPS_NUMBERS = 1 << 23  # held at a time: the closed form is about pairs of parts
_NEWTON_STEPS = 50
_TOLERANCE = 1e-5  # of a quantile, model scale
_ON_LEVEL = 1e-3  # how far from a level a rating may lie and be that level, in levels
_TAIL = 1e-4  # probability past the counts that a CRPS sums over; it enters squared
_NODES = 64  # where a sum over counts is evaluated, exact for that many counts
_LARGEST = 2.0**53  # beyond it a float64 no longer holds every count


class PosteriorPredictive:
    """The distribution of each rating: a mixture over what is not known of its parameters.

    Every method speaks in rating units. ``PosteriorPredictive(parts, transform)`` makes a
    `ContinuousPredictive` or a `DiscretePredictive`, as the parts are.

    Parameters
    ----------
    parts : sequence of (float, Distribution)
        Weights, which sum to one, and distributions on the model scale, of batch shape (n_pairs,).
    transform : Transform or tuple of float
        Of the training ratings. A tuple, the lowest and the highest rating there can be, is that
        to the unit scale; (0, 1) does for counts, too.

    Attributes
    ----------
    levels : Tensor, shape (n_levels,), or None
        The ratings there can be, ascending, where they are finitely many.
    """

    levels: Tensor | None = None

    def __new__(
        cls,
        parts: Sequence[tuple[float, Distribution]],
        transform: Transform | tuple[float, float],
    ) -> PosteriorPredictive:
        """Choose the class by the support of the parts."""
        if cls is not PosteriorPredictive:
            return super().__new__(cls)
        discrete = getattr(parts[0][1].support, "is_discrete", False)
        return super().__new__(DiscretePredictive if discrete else ContinuousPredictive)

    def __init__(
        self,
        parts: Sequence[tuple[float, Distribution]],
        transform: Transform | tuple[float, float],
    ) -> None:
        self.parts = parts
        if not isinstance(transform, Transform):
            transform = Affine.of_scale(*transform)
        self.transform, self.width = transform, transform.width

    @property
    def mean(self) -> Tensor:
        """Expected rating, shape (n_pairs,)."""
        mean = self._average(self.transform.mean)
        return self.transform.origin + self.width * mean.double()

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the rating, noise included, shape (n_pairs,)."""
        of = self.transform
        mean = self._average(of.mean)
        var = self._average(lambda part: of.variance(part) + (of.mean(part) - mean) ** 2)
        return self.width * var.sqrt()

    def log_prob(self, rating: Tensor) -> Tensor:
        """Log density of a rating, per rating unit, or log mass of a level, shape (n_pairs,)."""
        raise NotImplementedError

    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Log probability of a rating that is one of these levels, shape (n_pairs,).

        Of a model of levels it is the mass of that level, whichever others are named. So that a
        model of continuous ratings can be compared with it, its ratings are taken to be rounded to
        the nearest level, and the levels at the ends to take the tails.

        Parameters
        ----------
        rating : Tensor, broadcastable to (n_pairs,)
            Each one of the levels.
        levels : sequence of float or Tensor, shape (n_levels,)
            Ascending, in rating units.

        Raises
        ------
        PMFError
            If the levels do not ascend, a rating is none of them, or a model of levels does not
            have it.
        """
        raise NotImplementedError

    def log_mass(self, count: Tensor) -> Tensor:
        """Log probability of a whole number, shape (n_pairs,).

        So that models of counts can be compared, whatever they take counts for: under a continuous
        one it is that of the numbers from half below to half above.
        """
        raise NotImplementedError

    def level_probabilities(self, levels: Sequence[float] | Tensor) -> Tensor:
        """Probability of each of these levels, see `log_prob_of_level`, (n_pairs, n_levels)."""
        levels = torch.as_tensor(levels, dtype=torch.float64)
        return torch.stack([self.log_prob_of_level(x, levels).exp() for x in levels], -1)

    def cdf(self, rating: Tensor | float) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""
        raise NotImplementedError

    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Probability of this rating or a higher one, shape (n_pairs,)."""
        raise NotImplementedError

    def quantile(self, probability: float) -> Tensor:
        """The lowest rating whose `cdf` is at least this probability, shape (n_pairs,)."""
        raise NotImplementedError

    def interval(self, probability: float) -> tuple[Tensor, Tensor]:
        """Central interval, its ends clipped to the rating scale, each of shape (n_pairs,).

        Clipping to where the ratings are does not change how many of them the interval holds.
        An interval of levels holds this probability or more; one of counts, or under a transform
        without bounds, is not clipped.

        Raises
        ------
        PMFError
            If the probability is not inside (0, 1), or torch lacks the family's quantiles.
        """
        require_probability("interval", probability)
        tail = (1 - probability) / 2
        try:
            lower, upper = self.quantile(tail), self.quantile(1 - tail)
        except NotImplementedError as error:
            family = type(self.parts[0][1]).__name__
            raise PMFError(
                f"A rating that is {family} has no interval here, since torch has no quantiles of "
                "it: use Posterior.sample."
            ) from error
        return self._clip(lower), self._clip(upper)

    def crps(self, rating: Tensor) -> np.ndarray:
        """Continuous ranked probability score, in rating units, shape (n_pairs,)."""
        raise NotImplementedError

    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Probability integral transform, uniform if the prediction is right, (n_pairs,).

        Parameters
        ----------
        rating : Tensor
        generator : numpy.random.Generator, optional
            Randomises that of levels; the same at every call if left out.
        """
        raise NotImplementedError

    def _average(self, value: Callable[[Distribution], Tensor]) -> Tensor:
        return torch.stack([weight * value(part) for weight, part in self.parts]).sum(0)

    def _value_log_prob(self, x: Tensor) -> Tensor:
        logs = [math.log(weight) + part.log_prob(x) for weight, part in self.parts]
        return torch.logsumexp(torch.stack(logs), 0)

    def _value(self, rating: Tensor | float) -> Tensor:
        return self.transform.to_value(torch.as_tensor(rating, dtype=torch.float64))

    def _rating(self, x: Tensor) -> Tensor:
        return self.transform.to_rating(x.double())

    def _clip(self, rating: Tensor) -> Tensor:
        bounds = self.transform.bounds
        return rating if bounds is None else rating.clamp(*bounds)


class ContinuousPredictive(PosteriorPredictive):
    """The distribution of ratings that may be any number."""

    def log_prob(self, rating: Tensor) -> Tensor:
        """Log density of a rating, per rating unit, shape (n_pairs,)."""
        slope = self.transform.log_slope(torch.as_tensor(rating, dtype=torch.float64))
        return self._value_log_prob(self._part_value(rating)) + slope

    def log_prob_between(self, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Log probability of a rating from low to high, shape (n_pairs,).

        Finite far out in the tails of Normals, where the probability is none that a float holds.
        """
        ends = self._value(low), self._value(high)
        logs = [
            math.log(weight) + _log_probability_between(part, *ends) for weight, part in self.parts
        ]
        return torch.logsumexp(torch.stack(logs), 0)

    def log_mass(self, count: Tensor) -> Tensor:
        """Log probability of a number from half below a count to half above, shape (n_pairs,)."""
        count = torch.as_tensor(count, dtype=torch.float64)
        return self.log_prob_between(count - 0.5, count + 0.5)

    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Log probability of ratings that round to this level, shape (n_pairs,)."""
        levels, level = _located(rating, levels)
        infinity = levels.new_tensor([math.inf])
        ends = torch.cat([-infinity, levels[:-1] + levels.diff() / 2, infinity])
        return self.log_prob_between(ends[level], ends[level + 1])

    def cdf(self, rating: Tensor | float) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""
        return self._value_cdf(self._part_value(rating))

    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Probability of this rating or a higher one, shape (n_pairs,)."""
        return self.log_prob_between(rating, math.inf).exp()

    def quantile(self, probability: float) -> Tensor:
        """The rating that has this probability below it, shape (n_pairs,).

        Safeguarded Newton steps: any that leaves the bracket is replaced by bisection.
        """
        p = torch.tensor(probability)
        ends = torch.stack([part.icdf(p).expand(part.batch_shape) for _, part in self.parts])
        low, high = ends.amin(0), ends.amax(0)
        x = self._average(lambda part: part.icdf(p))
        for _ in range(_NEWTON_STEPS):
            excess = self._value_cdf(x) - p
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            newton = x - excess / self._value_density(x)
            inside = (newton >= low) & (newton <= high)
            previous, x = x, torch.where(inside, newton, (low + high) / 2)
            if not ((x - previous).abs() > _TOLERANCE).any():
                break
        return self._rating(x)

    def crps(self, rating: Tensor) -> np.ndarray:
        """Continuous ranked probability score, in rating units, shape (n_pairs,).

        In closed form for mixtures of up to 100 Normals, and of log-normals under "log1p"; else
        from 200 draws of the mixture.
        """
        weights, parts = zip(*self.parts, strict=True)
        if isinstance(self.transform, Log1p):
            logs = [self.transform.log_normal(part) for part in parts]
            log_means, log_sds = (torch.stack(x, -1).numpy() for x in zip(*logs, strict=True))
            above = np.maximum(np.asarray(rating, dtype=float) + 1, 0)
            scores = _crps_log_normals(above, np.array(weights), log_means, log_sds)
            return scores - np.minimum(np.asarray(rating, dtype=float) + 1, 0)
        if all(isinstance(part, Normal) for part in parts) and len(parts) <= _CRPS_PARTS:
            means = torch.stack([part.mean for part in parts], -1).double().numpy()
            sds = torch.stack([part.stddev for part in parts], -1).double().numpy()
            x = self._part_value(rating).double().numpy()
            share = np.broadcast_to(weights, means.shape)
            n_chunks = 1 + means.size * len(parts) // _CRPS_NUMBERS
            chunks = zip(
                *(np.array_split(a, n_chunks) for a in (x, means, sds, share)), strict=True
            )
            scores = np.concatenate([scoringrules.crps_mixnorm(*chunk) for chunk in chunks])
        else:
            which = np.random.default_rng(0).choice(len(parts), _CRPS_DRAWS, p=weights)
            with isolated_random_state(0):
                draws = torch.stack([parts[k].sample() for k in which], -1)
            scores = scoringrules.crps_ensemble(self._part_value(rating).numpy(), draws.numpy())
        return self.width * np.asarray(scores)

    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""
        return self.cdf(rating)

    def _part_value(self, rating: Tensor | float) -> Tensor:
        return self._value(rating).to(self.parts[0][1].mean.dtype)

    def _value_cdf(self, x: Tensor) -> Tensor:
        return self._average(lambda part: part.cdf(x))

    def _value_density(self, x: Tensor) -> Tensor:
        return self._average(lambda part: part.log_prob(x).exp())


class DiscretePredictive(PosteriorPredictive):
    """The distribution of ratings that are levels: ordered categories, 0 and 1, or counts.

    Levels are numbered 0, 1, ...; level k is k times ``part.spacing`` (1 if it has none) on the
    model scale. A part has ``part.n_levels`` of them; if it has no such attribute, Bernoulli has
    two and any other family has no highest level. Parts are given float64.
    """

    def __init__(
        self,
        parts: Sequence[tuple[float, Distribution]],
        transform: Transform | tuple[float, float],
    ) -> None:
        super().__init__(parts, transform)
        part = parts[0][1]
        if not isinstance(self.transform, Affine):
            raise PMFError(
                f"{type(part).__name__} is of evenly spaced levels, which {self.transform} does "
                'not leave so: make the Ratings with transform="unit" or "count".'
            )
        self.spacing = getattr(part, "spacing", 1.0)
        n_levels = getattr(part, "n_levels", 2 if isinstance(part, Bernoulli) else None)
        self.last = math.inf if n_levels is None else n_levels - 1
        if n_levels is not None:
            self.levels = self._from_level(torch.arange(n_levels))

    def log_prob(self, rating: Tensor) -> Tensor:
        """Log mass of a level, minus infinity for a rating that is none, shape (n_pairs,)."""
        position = self._position(rating)
        level = position.round().clamp(0, self.last)
        mass = self._value_log_prob(level * self.spacing)
        return mass.masked_fill((position - level).abs() > _ON_LEVEL, -math.inf)

    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Log mass of a level, whichever other levels there are, shape (n_pairs,)."""
        levels, level = _located(rating, levels)
        position = self._position(levels[level])
        nearest = position.round().clamp(0, self.last)
        if ((position - nearest).abs() > _ON_LEVEL).any():
            raise PMFError(f"The model has other levels than {levels.tolist()}.")
        return self.log_prob(levels[level])

    def log_mass(self, count: Tensor) -> Tensor:
        """Log mass of a level, shape (n_pairs,)."""
        return self.log_prob(count)

    def probabilities(self) -> Tensor:
        """Probability of each level, shape (n_pairs, n_levels).

        Raises
        ------
        PMFError
            If there is no highest level.
        """
        if self.levels is None:
            raise PMFError("Counts have no highest level: use level_probabilities with some.")
        return self.level_probabilities(self.levels)

    def cdf(self, rating: Tensor | float) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""
        return self._level_cdf((self._position(rating) + _ON_LEVEL).floor())

    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Probability of this rating or a higher one, shape (n_pairs,)."""
        return (1 - self._cdf_below(rating)).clamp_min(0)

    def quantile(self, probability: float) -> Tensor:
        """The lowest level whose `cdf` is at least this probability, shape (n_pairs,)."""
        return self._from_level(self._level_quantile(probability))

    def crps(self, rating: Tensor) -> np.ndarray:
        """Continuous ranked probability score of the nearest level, rating units, (n_pairs,).

        The width of a level times the ranked probability score (Epstein 1969). Of many counts it
        is summed over some: exact to about 0.2%, or 3% where most lie far below their mean.
        """
        level = self._position(rating).round().clamp(0, self.last)
        if self.levels is not None:
            chances = self.probabilities().clamp(max=1).numpy()
            scores = np.asarray(scoringrules.rps_score(level.numpy() + 1, chances))
        else:
            lowest = self._level_quantile(_TAIL).minimum(level)
            highest = self._level_quantile(1 - _TAIL).maximum(level)
            below = _sum_between(lambda k: self._level_cdf(k) ** 2, lowest, level)
            above = _sum_between(lambda k: (1 - self._level_cdf(k)) ** 2, level, highest)
            scores = (below + above).numpy()
        return self.width * self.spacing * scores

    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Randomised probability integral transform, shape (n_pairs,).

        Uniform between the probability of lower ratings and that of this one or a lower one, and
        so over [0, 1] if the prediction is right (Czado, Gneiting & Held 2009).
        """
        below, to = self._cdf_below(rating), self.cdf(rating)
        generator = np.random.default_rng(0) if generator is None else generator
        return below + torch.from_numpy(generator.random(len(to))) * (to - below)

    def _position(self, rating: Tensor | float) -> Tensor:
        """Level of a rating, a fraction if it is none, float64, shape (n_pairs,)."""
        return (self._value(rating) / self.spacing).expand(self.parts[0][1].batch_shape)

    def _from_level(self, level: Tensor) -> Tensor:
        return self._rating(level * self.spacing)

    def _clip(self, rating: Tensor) -> Tensor:
        return rating if self.levels is None else super()._clip(rating)

    def _cdf_below(self, rating: Tensor | float) -> Tensor:
        return self._level_cdf((self._position(rating) - _ON_LEVEL).ceil() - 1)

    def _level_cdf(self, level: Tensor) -> Tensor:
        x = level.clamp(0, self.last) * self.spacing
        return self._average(lambda part: _lattice_cdf(part, x)).masked_fill(level < 0, 0)

    def _level_quantile(self, probability: float) -> Tensor:
        """By bisection over the levels, after doubling where there is no highest one."""
        low = torch.full(self.parts[0][1].batch_shape, -1.0, dtype=torch.float64)
        if self.levels is None:
            high = torch.ones_like(low)
            while (short := (self._level_cdf(high) < probability) & (high < _LARGEST)).any():
                high = torch.where(short, 2 * high, high)
        else:
            high = torch.full_like(low, self.last)
        while ((high - low) > 1).any():
            middle = ((low + high) / 2).floor()
            reached = self._level_cdf(middle) >= probability
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return high


def _located(rating: Tensor | float, levels: Sequence[float] | Tensor) -> tuple[Tensor, Tensor]:
    """Levels, and which of them each rating is; refuse ratings that are none."""
    levels = torch.as_tensor(levels, dtype=torch.float64)
    gaps = levels.diff()
    if not (len(levels) and levels.isfinite().all() and (gaps > 0).all()):
        raise PMFError(f"levels must be numbers that ascend, not {levels.tolist()}")
    rating = torch.as_tensor(rating, dtype=torch.float64).contiguous()
    level = torch.searchsorted(levels[:-1] + gaps / 2, rating)
    off = (rating - levels[level]).abs() > _ON_LEVEL * (gaps.min() if len(gaps) else 1.0)
    if off.any():
        wrong = rating[off][:5].tolist()
        raise PMFError(f"Ratings that are none of the levels, such as {wrong}: add them.")
    return levels, level


def _log_probability_between(part: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """Log probability of values from low to high, from the logs of a Normal's tails."""
    if not isinstance(part, Normal):
        return (part.cdf(high) - part.cdf(low)).log()
    loc, scale = part.loc.double(), part.scale.double()
    low, high = (low - loc) / scale, (high - loc) / scale
    upper = low > 0
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1(log_low - log_high))


def _crps_log_normals(
    x: np.ndarray, weights: np.ndarray, log_means: np.ndarray, log_sds: np.ndarray
) -> np.ndarray:
    """CRPS of mixtures of log-normals, E|X - x| - E|X - X'| / 2, shape (n,), in closed form.

    E max(X - X', 0) of two independent ones is the value of an option to exchange them (Margrabe
    1978); x is one whose logarithm has no spread.

    Parameters
    ----------
    x : ndarray, shape (n,)
        At least 0.
    weights : ndarray, shape (n_parts,)
    log_means, log_sds : ndarray, shape (n, n_parts)
    """
    with np.errstate(divide="ignore"):
        score = _mean_distance(np.log(x)[:, None], 0.0, log_means, log_sds) @ weights
    for k, weight in enumerate(weights):
        one = log_means[:, k, None], log_sds[:, k, None]
        score -= weight / 2 * (_mean_distance(*one, log_means, log_sds) @ weights)
    return score


def _mean_distance(
    log_mean: np.ndarray, log_sd: np.ndarray | float, log_means: np.ndarray, log_sds: np.ndarray
) -> np.ndarray:
    """E|X - Y| of independent log-normals; any shapes."""
    x, y = np.exp(log_mean + np.square(log_sd) / 2), np.exp(log_means + np.square(log_sds) / 2)
    sd = np.hypot(log_sd, log_sds)
    middle = (log_mean - log_means + (np.square(log_sd) - np.square(log_sds)) / 2) / sd
    return x * (2 * ndtr(middle + sd / 2) - 1) - y * (2 * ndtr(middle - sd / 2) - 1)


def _lattice_cdf(part: Distribution, x: Tensor) -> Tensor:
    """Probability of a level at most x, float64; torch lacks it for two of its families."""
    if isinstance(part, Bernoulli):
        return torch.where(x < 1, 1 - part.probs.double(), 1.0)
    if isinstance(part, NegativeBinomial):  # successes before total_count failures
        failure = torch.sigmoid(-part.logits.double())
        arguments = part.total_count.double(), x + 1, failure
        return torch.from_numpy(betainc(*(argument.numpy() for argument in arguments)))
    return part.cdf(x).double()


def _sum_between(function: Callable[[Tensor], Tensor], start: Tensor, stop: Tensor) -> Tensor:
    """Sum a function over the integers from start to before stop.

    Where they are many, it is evaluated at some, denser near ``start``, and linear between them.
    """
    node, value, total = start, function(start), torch.zeros_like(start)
    for k in range(1, _NODES + 1):
        away = ((stop - start) * (k / _NODES) ** 2).round().clamp(min=k)
        following = (start + away).minimum(stop)
        following_value = function(following)
        steps = following - node
        total += steps * value + (following_value - value) * (steps - 1) / 2
        node, value = following, following_value
        if (node == stop).all():
            break
    return total
