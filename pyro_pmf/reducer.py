"""Sums over the processes of one fit, each of which holds some of the users.

`torchrun` starts the same script several times. What depends on all users, such as a loss or the
gradient of an item, is then a sum over the processes, and what is decided by such sums is decided
alike in all of them. They talk by torch.distributed: gloo between CPUs, NCCL between GPUs.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_pmf.errors import FitError, PMFError

# How long a process waits for another that is at work, such as one that learns scales alone. One
# that has ended is noticed at once, by its closed connection.
_PATIENCE = timedelta(hours=2)

T = TypeVar("T")


class Reducer:
    """Sums over the processes of a fit; this one is for a fit in one process.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    """

    rank = 0
    size = 1

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over all processes, a new tensor: the same bits in each of them."""
        return x

    def largest(self, x: Tensor) -> Tensor:
        """Return the largest value of each entry over all processes."""
        return x

    def any(self, x: bool) -> bool:
        """Return whether this is true in any process."""
        return x

    def first(self, compute: Callable[[], T]) -> T:
        """Compute something in the first process only, and return it, or its error, in all.

        Parameters
        ----------
        compute : callable
            Function of no arguments; its result goes from one process to the others.
        """
        return compute()

    def each(self, value: T) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        return [value]


class Group(Reducer):
    """Sums over the processes that `torchrun` has started."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over all processes, with a gradient."""
        return sum_over_processes(x)

    def largest(self, x: Tensor) -> Tensor:
        """Return the largest value of each entry over all processes."""
        x = x.clone()
        _together(lambda: dist.all_reduce(x, dist.ReduceOp.MAX))
        return x

    def any(self, x: bool) -> bool:
        """Return whether this is true in any process."""
        return bool(self.largest(torch.tensor(int(x), device=_device())))

    def first(self, compute: Callable[[], T]) -> T:
        """Compute something in the first process, and return it, or its error, in all."""
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = compute()
            except PMFError as error:  # all others end this process, which the others notice
                told[1] = error
        _together(lambda: dist.broadcast_object_list(told, 0, device=_device()))
        if told[1] is not None:
            raise told[1]
        return told[0]

    def each(self, value: T) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        told: list[Any] = [None] * self.size
        _together(lambda: dist.all_gather_object(told, value))
        return told


def reducer_of_world() -> Reducer:
    """Return the reducer of the processes that this one was started with.

    A script that `torchrun` runs joins the others here, unless it has done so by
    ``torch.distributed.init_process_group``.

    Raises
    ------
    FitError
        If the others cannot be reached.
    """
    if not dist.is_available():
        return Reducer()
    if not dist.is_initialized() and _is_one_of_several():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise FitError(
                f"Cannot reach the other processes of this fit: {error}. Start all by torchrun, "
                "or unset WORLD_SIZE to fit in one process."
            ) from error
        atexit.register(_leave)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Reducer()
    return Group()


def is_first() -> bool:
    """Return whether this is the first of the processes that share a fit, or the only one.

    It alone prints and writes files.
    """
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def number_of_process() -> int:
    """Return which of the processes that `torchrun` started this is, also before they have met."""
    return int(os.environ.get("RANK", "0")) if _is_one_of_several() else 0


def _is_one_of_several() -> bool:
    """Return whether this process was started together with others, to meet at an address."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and "MASTER_ADDR" in os.environ  # other launchers use the first name, too


def _leave() -> None:
    """Leave the group before Python ends: threads of gloo that are left abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    """Return the device on which the processes exchange numbers."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _together(call: Callable[[], Any]) -> None:
    """Call a function that waits for all processes; say so if one of them has ended."""
    try:
        call()
    except RuntimeError as error:  # torch has no error of its own for each of its backends
        raise FitError(
            "Another process of this fit has ended or cannot be reached, so this one ends, too. "
            "Its own output says why; fit again, with resume=True if there is a checkpoint. "
            f"(torch says: {str(error).splitlines()[0]})"
        ) from error


# An operation of its own, so that it is differentiated, and recorded with the steps of a fit.
torch.library.define("pyro_pmf::sum_over_processes", "(Tensor x) -> Tensor")
sum_over_processes = torch.ops.pyro_pmf.sum_over_processes.default


@torch.library.impl("pyro_pmf::sum_over_processes", "default")
def _(x: Tensor) -> Tensor:
    """Return the sum over all processes."""
    total = x.clone(memory_format=torch.contiguous_format)
    _together(lambda: dist.all_reduce(total))
    return total


@torch.library.register_fake("pyro_pmf::sum_over_processes")
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return sum_over_processes(grad)


torch.library.register_autograd("pyro_pmf::sum_over_processes", _backward)
