"""The private names of torch and Pyro that this package uses, all in one place.

A new version of either may drop or rename one. `PRIVATE_NAMES` lists them with their use; a test
reports any that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.infer import HMC
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.utils import deep_setattr
from pyro.infer.mcmc.adaptation import WarmupAdapter
from pyro.nn import PyroParam
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.utils._python_dispatch import TorchDispatchMode

# The path of each private name, and its use here.
PRIVATE_NAMES = {
    "torch.utils._python_dispatch.TorchDispatchMode": "sees the kernels that a step calls",
    "torch.utils._python_dispatch.TorchDispatchMode._should_skip_dynamo": "keeps dynamo unloaded",
    "torch.UntypedStorage._cdata": "tells whether two tensors share memory",
    "torch.ops.aten.add.Tensor._schema": "tells which arguments an operation writes to",
    "torch.distributions.Distribution._extended_shape": "the shape of samples",
    "torch.distributions.Distribution._validate_sample": "checks values",
    "pyro.infer.autoguide.AutoNormal._setup_prototype": "makes the parameters of a guide",
    "pyro.infer.autoguide.AutoNormal._get_loc_and_scale": "reads the parameters of a site",
    "pyro.infer.autoguide.AutoNormal._create_plates": "makes the plates of a guide",
    "pyro.poutine.runtime._PYRO_STACK": "sets aside the handlers of the caller",
    "pyro.poutine.runtime._DIM_ALLOCATOR._stack": "sets aside the plates of the caller",
    "pyro.infer.mcmc.adaptation.WarmupAdapter": "tunes steps and masses during warm-up",
}
# Private attributes that only instances have: of a guide that has run, of a kernel.
GUIDE_ATTRIBUTES = ("_event_dims", "_pyro_name")
KERNEL_ATTRIBUTES = ("_adapter",)
ADAPTER_ATTRIBUTES = ("_adapt_start_buffer", "_adapt_initial_window", "_adapt_end_buffer")


def storage_id(tensor: Tensor) -> int:
    """Return a number that is equal for tensors that share memory."""
    return tensor.untyped_storage()._cdata


def is_mutable(function: Any) -> bool:
    """Return whether an operation of torch writes to any of its arguments."""
    return function._schema.is_mutable


def written_arguments(function: Any, args: tuple, kwargs: dict[str, Any]) -> Iterator[Any]:
    """Iterate over the arguments that an operation of torch writes to.

    Parameters
    ----------
    function : OpOverload
        The operation, such as ``torch.ops.aten.add_.Tensor``.
    args, kwargs
        Its positional and keyword arguments.
    """
    arguments = function._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    for argument in arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield given.get(argument.name)


def is_reparametrized(fn: Distribution) -> bool:
    """Return whether a site's distribution is the placeholder of Pyro's reparametrizers."""
    return getattr(fn, "_mask", None) is False


def shorten_adaptation(kernel: HMC, start: int, window: int, end: int) -> None:
    """Set the lengths of the warm-up phases in which a kernel adapts its mass matrix.

    Parameters
    ----------
    kernel : pyro.infer.HMC
        The kernel to change.
    start, window, end : int
        Steps before the first window, in the first window, and after the last window.
    """
    adapter: WarmupAdapter = kernel._adapter
    adapter._adapt_start_buffer, adapter._adapt_initial_window = start, window
    adapter._adapt_end_buffer = end


@contextmanager
def without_handlers() -> Iterator[None]:
    """Set aside Pyro's handlers and the dimensions of its plates, and put them back afterwards."""
    stacks: tuple[list[Any], ...] = (_PYRO_STACK, _DIM_ALLOCATOR._stack)
    before = [stack[:] for stack in stacks]
    for stack in stacks:
        stack.clear()
    try:
        yield
    finally:
        for stack, items in zip(stacks, before, strict=True):
            stack[:] = items


class QuietDispatchMode(TorchDispatchMode):
    """A dispatch mode for which torch does not import its compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class OpenAutoNormal(AutoNormal):
    """Pyro's `AutoNormal`, with public names for the methods that subclasses need."""

    def set_up(self, *args: Any, **kwargs: Any) -> None:
        """Run the model once, with its arguments, and make the parameters of the guide."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)

    def sites(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the latent sites by name, in the order of the model."""
        trace: Any = self.prototype_trace
        return list(trace.iter_stochastic_nodes())

    def loc_and_scale(self, site: str) -> tuple[Tensor, Tensor]:
        """Return location and scale of a site, in unconstrained space."""
        return self._get_loc_and_scale(site)

    def event_dim(self, site: str) -> int:
        """Return the number of event dimensions of a site, in unconstrained space."""
        return self._event_dims[site]

    def set_scale(self, site: str, value: Tensor, constraint: constraints.Constraint) -> None:
        """Replace the scale of a site by a new parameter.

        Parameters
        ----------
        site : str
            Name of the latent site.
        value : Tensor
            Initial value, in the shape of the site in unconstrained space.
        constraint : Constraint
            Constraint of the parameter, such as positive.
        """
        deep_setattr(self.scales, site, PyroParam(value, constraint, self._event_dims[site]))

    def parameter_name(self, kind: str, site: str) -> str:
        """Return the name in Pyro's store of a site's parameter of a kind, "locs" or "scales"."""
        return f"{self._pyro_name}.{kind}.{site}"

    def make_plates(self, *args: Any, **kwargs: Any) -> Any:
        """Make the plates of the guide for these arguments of the model."""
        return self._create_plates(*args, **kwargs)
