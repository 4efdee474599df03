"""Mixtures as one distribution, whose first dimension is the part: a call computes all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from pyro_pmf.moments.expectations import few_nodes, parameters_of
from pyro_pmf.moments.gaussian import Uncertain, require_independent


class Mixture(NamedTuple):
    """A mixture of distributions of one family.

    Attributes
    ----------
    weights : Tensor, float64, shape (n_parts,)
        They sum to one.
    parts : Distribution, batch shape (n_parts, ...)
        The parts, along the first dimension.
    """

    weights: Tensor
    parts: Distribution


def mixture_of(fn: Distribution) -> Mixture:
    """Return a distribution with random parameters as a finite mixture.

    The parts are those of `expectations.components`, in the same order.

    Parameters
    ----------
    fn : Distribution, batch shape (n,)
        Its parameters are tensors or independent random quantities.

    Raises
    ------
    NoClosedForm
        If two parameters share a latent site.
    """
    parameters = parameters_of(fn)
    random = {name: x for name, x in parameters.items() if isinstance(x, Uncertain)}
    if not random:
        return Mixture(torch.ones(1, dtype=torch.float64), fn.expand(Size([1, *fn.batch_shape])))
    require_independent(*random.values())
    rules = [few_nodes(x) for x in random.values()]
    sizes = [len(rule.weights) for rule in rules]
    weights = torch.ones((), dtype=torch.float64)
    for k, (name, rule) in enumerate(zip(random, rules, strict=True)):
        weights = (weights[..., None] * rule.weights.double()).flatten()
        own = [1] * len(sizes)
        own[k] = sizes[k]
        n_event = fn.arg_constraints[name].event_dim
        lead = len(fn.batch_shape) + n_event - (rule.nodes.dim() - 1)
        shape = (*(1,) * lead, *rule.nodes.shape[1:])
        every = rule.nodes.reshape(*own, *shape).expand(*sizes, *shape)
        parameters[name] = every.flatten(0, len(sizes) - 1)
    return Mixture(weights / weights.sum(), type(fn)(**parameters, validate_args=False))


def stacked(parts: Sequence[Distribution]) -> Distribution:
    """Return distributions of one batch shape as one, of batch shape (n_parts, ...).

    Parameters
    ----------
    parts : sequence of Distribution
        At least one. Those that are not made of the tensors of one family stay apart, and so do
        those of a class that does not take its parameters as torch's classes do.
    """
    kind: Any = type(parts[0])
    shape = parts[0].batch_shape
    all_parameters = [parameters_of(part) for part in parts]
    for own in all_parameters:
        if "logits" in own:
            own.pop("probs", None)  # a function of the logits, kept by torch once it is asked for
    names = all_parameters[0].keys()
    alike = all(
        type(part) is kind
        and part.batch_shape == shape
        and own.keys() == names
        and all(isinstance(x, Tensor) for x in own.values())
        for part, own in zip(parts, all_parameters, strict=True)
    )
    if not (alike and names and {*names, "validate_args"} <= signature(kind).parameters.keys()):
        return Apart(parts)
    together = {}
    for name in names:
        n_event = kind.arg_constraints[name].event_dim
        values = [own[name] for own in all_parameters]
        values = [x.reshape(*(1,) * (len(shape) + n_event - x.dim()), *x.shape) for x in values]
        together[name] = torch.stack(values)
    return kind(**together, validate_args=False)


class Apart(Distribution):
    """Some distributions side by side, each asked by itself.

    Parameters
    ----------
    parts : sequence of Distribution
        Of one batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.each = list(parts)
        shape = Size([len(parts), *parts[0].batch_shape])
        super().__init__(shape, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the first."""
        return self.each[0].support

    @property
    def mean(self) -> Tensor:
        """Mean of each, shape (n_parts, ...)."""
        return self._of_each(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of each, shape (n_parts, ...)."""
        return self._of_each(lambda part: part.variance)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of each at values that broadcast, shape (..., n_parts, n)."""
        return self._at(value, lambda part, x: part.log_prob(x))

    def cdf(self, value: Tensor) -> Tensor:
        """Return the distribution function of each; shapes as for `log_prob`."""
        return self._at(value, lambda part, x: part.cdf(x))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of each; shapes as for `log_prob`."""
        return self._at(value, lambda part, x: part.icdf(x))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw of each, shape (*sample_shape, n_parts, ...)."""
        draws = [part.sample(Size(sample_shape)) for part in self.each]
        return torch.stack(draws, len(sample_shape))

    def _of_each(self, function: Callable[[Distribution], Tensor]) -> Tensor:
        return torch.stack([function(part).expand(part.batch_shape) for part in self.each])

    def _at(self, value: Tensor, function: Callable[[Distribution, Tensor], Tensor]) -> Tensor:
        rows = value.expand(np.broadcast_shapes(value.shape, self.batch_shape)).unbind(-2)
        return torch.stack([function(*pair) for pair in zip(self.each, rows, strict=True)], -2)


def family(fn: Distribution) -> Distribution:
    """Return the distribution whose class says what a mixture consists of."""
    return fn.each[0] if isinstance(fn, Apart) else fn
