"""Arrays in files that are mapped into memory, for tables that do not fit into it."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import weakref
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.errors import RatingsError

_NUMPY = {
    torch.bool: np.bool_,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


class Scratch:
    """Makes arrays: in memory, or in files of a folder that are mapped into memory.

    The operating system reads a part of a file when it is used, and takes the memory back when
    others need it. Files have no name, so they are gone with the last array, however the process
    ends (on Windows, with the process). The file of an array that is gone serves the next one of
    its size, since new files cost more than what is written to them.

    Parameters
    ----------
    folder : path-like, optional
        A folder on a disk with space for all arrays; None for memory.

    Raises
    ------
    RatingsError
        On the first array, if no file can be made there.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._free: dict[int, list[Tensor]] = defaultdict(list)  # by number of bytes

    def __reduce__(self) -> tuple[type[Scratch], tuple[Path | None]]:
        return Scratch, (self.folder,)  # another process has files of its own

    @property
    def is_mapped(self) -> bool:
        """Whether arrays are in files."""
        return self.folder is not None

    def empty(self, n: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """Return a vector of any values.

        Parameters
        ----------
        n : int
            Number of entries.
        dtype : torch.dtype
            bool, int32, int64, float32 or float64.
        device : torch.device, optional
            The device, for arrays in memory; files are for the CPU.
        """
        if self.folder is None or not n:
            return torch.empty(n, dtype=dtype, device=device)
        n_bytes = n * dtype.itemsize
        free = self._free[n_bytes]
        mapped = free.pop() if free else _mapped(n_bytes, self.folder)
        array: np.ndarray = mapped.numpy().view(_NUMPY[dtype])  # the tensor and its views keep it
        weakref.finalize(array, free.append, mapped).atexit = False
        return torch.from_numpy(array)

    def keep(self, x: Tensor) -> Tensor:
        """Return a tensor as one of these arrays: a copy in a file, or itself."""
        if self.folder is None or x.dtype not in _NUMPY:
            return x
        kept = self.empty(math.prod(x.shape), x.dtype).view(x.shape)
        kept.copy_(x)
        return kept


def _mapped(n_bytes: int, folder: Path) -> Tensor:
    """Return the bytes of a new file without a name."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="pyro-pmf-") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here, not by a signal
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            # there a mapping needs no open file, of which few are allowed
            if sys.platform == "linux":
                path = f"/proc/self/fd/{file.fileno()}"
                return torch.from_file(path, shared=True, size=n_bytes, dtype=torch.uint8)
            return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=(n_bytes,)))
    except (OSError, RuntimeError) as error:
        raise RatingsError(
            f"{folder} cannot hold {n_bytes / 1e9:.1f} GB of ratings ({error}): give folder= on a "
            "disk with space."
        ) from error
