"""Random quantities that take the place of tensors in a model.

A model that only adds, indexes and multiplies its Gaussian latents, and passes the result to a
distribution, can run with a `Gaussian` in place of each latent. Its score is then a random
quantity with mean and variance in closed form, instead of one noisy draw. The module `rules`
has the supported operations; any other raises `NoClosedForm`, so that no wrong result passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Size, Tensor

from pyro_pmf.moments.bilinear import dot, weighted_sum
from pyro_pmf.moments.quadrature import N_NODES, Quadrature

# From a function of torch, or of `bilinear`, to its moments; `rules` fills it.
RULES: dict[Callable, Callable] = {}


class NoClosedForm(TypeError):
    """Raised when the moments of an operation on random quantities have no closed form."""


class Uncertain(ABC):
    """A random quantity.

    Attributes
    ----------
    sites : frozenset of str
        The latent sites that it depends on. Quantities that share no site are independent.
    """

    sites: frozenset[str]
    mean: Any  # Tensor: mean of each entry
    var: Any  # Tensor: variance of each entry

    @property
    @abstractmethod
    def shape(self) -> Size:
        """Shape of one draw."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function that changes the shape to every parameter."""

    @abstractmethod
    def quadrature(self) -> Quadrature:
        """Return a quadrature rule for expectations under the distribution of each entry."""

    @abstractmethod
    def draw(self) -> Tensor:
        """Return one draw, from torch's random state."""

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        named = kwargs and func not in (dot, weighted_sum)  # such as alpha= and out=
        if func not in RULES or named:
            raise NoClosedForm(f"{getattr(func, '__name__', func)} of a random quantity")
        return RULES[func](*args, **(kwargs or {}))

    # Tensor methods that pyro.plate, pyro.deterministic and constructors of distributions call.
    def size(self, dim: int | None = None) -> Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def expand(self, *shape: Any) -> Self:
        return self.map(lambda x: x.expand(*shape))

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda x: x[index])

    def __add__(self, other: Tensor | Uncertain) -> Uncertain:
        return RULES[torch.add](self, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Gaussian | LogGaussian:
        return RULES[torch.mul](self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Gaussian:
        return RULES[torch.div](self, other)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NoClosedForm(f"the method or attribute {name!r} of a random quantity")

    def _refuse(self, *_: object, **__: object) -> Any:
        raise NoClosedForm("this use of a random quantity as a number")

    # Python's other operators and conversions, which have no closed form here.
    __sub__ = __rsub__ = __neg__ = __pos__ = __abs__ = __pow__ = __rpow__ = _refuse
    __rtruediv__ = __matmul__ = __rmatmul__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _refuse
    __float__ = __int__ = __index__ = __len__ = __array__ = __round__ = __format__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse
    __setitem__ = __hash__ = _refuse


@dataclass(frozen=True, eq=False)
class Gaussian(Uncertain):
    """A random tensor with Normal entries.

    Parameters
    ----------
    mean, var : Tensor, one shape
        Mean and variance of each entry.
    sites : frozenset of str
        The latent sites that it depends on.
    independent : bool
        Whether the entries are independent of each other.
    """

    mean: Tensor
    var: Tensor
    sites: frozenset[str] = frozenset()
    independent: bool = True

    @property
    def shape(self) -> Size:
        return self.mean.shape

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return _map_tensors(self, function)

    def quadrature(self) -> Quadrature:
        return Quadrature.normal(self.mean, self.var)

    def __getitem__(self, index: Any) -> Self:
        parts = index if isinstance(index, tuple) else (index,)
        may_repeat = any(isinstance(part, Tensor | list) for part in parts)
        return replace(super().__getitem__(index), independent=self.independent and not may_repeat)

    def expand(self, *shape: Any) -> Self:
        larger = super().expand(*shape)
        same = larger.mean.numel() == self.mean.numel()
        return replace(larger, independent=self.independent and same)

    def draw(self) -> Tensor:
        return self.mean + self.var.sqrt() * torch.randn_like(self.mean)


@dataclass(frozen=True, eq=False)
class LogGaussian(Uncertain):
    """A random tensor with independent log-normal entries.

    Parameters
    ----------
    log_mean, log_var : Tensor, one shape
        Mean and variance of the logarithm of each entry.
    sites : frozenset of str
        The latent sites that it depends on.
    expanded : Size, optional
        Shape of the quantity, if larger. The moments are not expanded, so that a standard
        deviation shared by a million ratings is computed with as one number.
    """

    log_mean: Tensor
    log_var: Tensor
    sites: frozenset[str] = frozenset()
    expanded: Size | None = None

    @property
    def shape(self) -> Size:
        return self.log_mean.shape if self.expanded is None else self.expanded

    @property
    def dtype(self) -> torch.dtype:
        return self.log_mean.dtype

    @property
    def device(self) -> torch.device:
        return self.log_mean.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        full = self if self.expanded is None else _map_tensors(self, self._broadcast)
        return _map_tensors(replace(full, expanded=None), function)

    def expand(self, *shape: Any) -> Self:
        wanted = self._broadcast(self.log_mean).expand(*shape).shape
        return replace(self, expanded=wanted)

    def _broadcast(self, moment: Tensor) -> Tensor:
        return moment if self.expanded is None else moment.expand(self.expanded)

    def quadrature(self, n_nodes: int = N_NODES) -> Quadrature:
        mean, var = self._broadcast(self.log_mean), self._broadcast(self.log_var)
        log = Quadrature.normal(mean, var, n_nodes)
        return Quadrature(log.nodes.exp(), log.weights)

    def draw(self) -> Tensor:
        log = Gaussian(self._broadcast(self.log_mean), self._broadcast(self.log_var))
        return log.draw().exp()

    @property
    def mean(self) -> Tensor:
        return self._broadcast((self.log_mean + self.log_var / 2).exp())

    @property
    def var(self) -> Tensor:
        return self.mean**2 * self._broadcast(self.log_var.expm1())

    @property
    def mean_log(self) -> Tensor:
        """E log x; its shape broadcasts to `shape`, as for the two moments below."""
        return self.log_mean

    @property
    def mean_square(self) -> Tensor:
        """E x^2."""
        return (2 * (self.log_mean + self.log_var)).exp()

    @property
    def mean_precision(self) -> Tensor:
        """E x^-2."""
        return (2 * (self.log_var - self.log_mean)).exp()


@dataclass(frozen=True, eq=False)
class Transformed(Uncertain):
    """A function of Normal entries, applied entry by entry.

    Parameters
    ----------
    base : Gaussian
        The argument of the function.
    function : callable
        ``function(tensor)`` is a tensor of the same shape.
    """

    base: Gaussian
    function: Callable[[Tensor], Tensor]

    @property
    def sites(self) -> frozenset[str]:  # type: ignore[override]
        return self.base.sites

    @property
    def shape(self) -> Size:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, base=self.base.map(function))

    def quadrature(self) -> Quadrature:
        rule = self.base.quadrature()
        return Quadrature(self.function(rule.nodes), rule.weights)

    def draw(self) -> Tensor:
        return self.function(self.base.draw())

    @property
    def mean(self) -> Tensor:
        rule = self.quadrature()
        return rule.expectation(rule.nodes)

    @property
    def var(self) -> Tensor:
        rule = self.quadrature()
        return rule.expectation((rule.nodes - rule.expectation(rule.nodes)) ** 2)


Value = Tensor | Uncertain


def require_independent(*values: Value) -> None:
    """Raise `NoClosedForm` if two of the quantities share a latent site."""
    seen: set[str] = set()
    for value in values:
        sites = value.sites if isinstance(value, Uncertain) else frozenset()
        if shared := seen & sites:
            raise NoClosedForm(f"dependent quantities: both hold site {sorted(shared)}")
        seen |= sites


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    parameters = {f.name: getattr(value, f.name) for f in fields(value)}
    return replace(
        value, **{name: function(x) for name, x in parameters.items() if isinstance(x, Tensor)}
    )
