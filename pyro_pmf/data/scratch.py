"""Arrays in files that are mapped into memory, for tables that do not fit into it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.errors import RatingsError

_NUMPY = {
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


class Scratch:
    """Makes arrays: in memory, or in files of a folder that are mapped into memory.

    The operating system reads a part of a file when it is used, and takes the memory back when
    others need it. Files have no name, so they are gone with the last array, however the process
    ends (on Windows, with the process).

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
            int32, int64, float32 or float64.
        device : torch.device, optional
            The device, for arrays in memory; files are for the CPU.
        """
        if self.folder is None or not n:
            return torch.empty(n, dtype=dtype, device=device)
        try:
            with tempfile.TemporaryFile(dir=self.folder, prefix="pyro-pmf-") as file:
                size = n * dtype.itemsize
                if hasattr(os, "posix_fallocate"):  # a full disk is told here, not by a signal
                    os.posix_fallocate(file.fileno(), 0, size)
                mapped = np.memmap(file, _NUMPY[dtype], "w+", shape=(n,))
        except OSError as error:
            raise RatingsError(
                f"{self.folder} cannot hold {n * dtype.itemsize / 1e9:.1f} GB of ratings "
                f"({error}): give folder= on a disk with space."
            ) from error
        return torch.from_numpy(mapped)

    def keep(self, x: Tensor) -> Tensor:
        """Return a vector as one of these arrays: a copy in a file, or itself."""
        if self.folder is None:
            return x
        kept = self.empty(len(x), x.dtype)
        kept.copy_(x)
        return kept
