"""Checkpoints: a folder with the state of a fit, from which it goes on to the same numbers."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, StorageError, warn
from pyro_pmf.inference.packing import read_packed, write_packed
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.storage import holds_posterior
from pyro_pmf.moments.gaussian import Value
from pyro_pmf.reducer import Reducer

_FORMAT = 3
_STATE = "checkpoint.safetensors"
_PART = "draws-{:05d}.safetensors"
_NO_NUMBERS = {"n_jobs"}  # options of methods that do not change the result
_PACKAGES = ("pyro-pmf", "torch", "pyro-ppl", "numpy")  # whose versions may change numbers

Fingerprint = dict[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a fit writes its state.

    Parameters
    ----------
    path : path-like
        A folder, which is made if it does not exist; not that of a saved posterior.
    every : float
        Seconds from the end of one write to the next; with 0, each step is written. The last state
        of a fit, or of a chain, is written in any case.

    Raises
    ------
    FitError
        If an option is not valid.

    Examples
    --------
    >>> from pyro_pmf import Checkpoint
    >>> Checkpoint("fit-of-monday", every=300).every
    300
    """

    path: str | os.PathLike[str]
    every: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise FitError(f"checkpoint must be the path of a folder, not {self.path!r}.")
        is_number = isinstance(self.every, Real) and not isinstance(self.every, bool)
        if not is_number or not 0 <= float(self.every) < math.inf:
            raise FitError(f"every must be a number of seconds, 0 or more, not {self.every!r}.")


class OpenCheckpoint:
    """The checkpoint of one fit, read and written.

    The folder holds the latest state, and parts, such as draws, that are written once. The state
    names its parts and is replaced at one stroke, so the folder is whole at any moment. Where
    processes share the fit, the first of them reads and writes for all.

    Parameters
    ----------
    options : Checkpoint
        Where, and how often.
    fingerprint : dict of str to str
        Everything that decides the numbers of the fit, see `fingerprint_of`.
    resume : bool
        Whether to continue from the state in the folder.
    reducer : Reducer
        Sums over the processes that share the fit.

    Attributes
    ----------
    every : float
        Seconds from the end of one write to the next.
    seconds : float
        Seconds that the fit had taken when its state was written; 0 without one.

    Raises
    ------
    StorageError
        If the folder cannot be written, is that of a saved posterior, or holds a state that is
        damaged, that is of another fit, or that ``resume`` is needed for.
    """

    def __init__(
        self, options: Checkpoint, fingerprint: Fingerprint, resume: bool, reducer: Reducer
    ) -> None:
        self._folder, self.every = Path(options.path), options.every
        self._reducer = reducer
        self._fingerprint = fingerprint
        self._values: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._state: Any = None
        self._has_warned = False
        self.seconds = 0.0
        if record := reducer.first(lambda: self._open(resume)):
            self._values, self._parts = record["values"], record["parts"]
            self._state, self.seconds = record["state"], record["seconds"]
        self._started = self._written = time.perf_counter()

    def is_due(self) -> bool:
        """Return whether a state should be written by now."""
        return self._reducer.any(time.perf_counter() - self._written >= self.every)

    def take_state(self) -> Any:
        """Return the state in the folder, once; None without one."""
        state, self._state = self._state, None
        return state

    def parts(self, owner: int) -> Iterator[Any]:
        """Iterate over the parts of one owner, in the order in which they were written.

        Parameters
        ----------
        owner : int
            What they are parts of, such as a chain.

        Raises
        ------
        StorageError
            If a part is damaged or of another fit.
        """
        for part in self._parts:
            if part["owner"] != owner:
                continue
            yield self._reducer.first(partial(self._read_part, **part))

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return a value of the fit; compute and write it the first time.

        Parameters
        ----------
        name : str
            Name of the value.
        compute : callable
            Returns the value, of plain numbers, lists and dicts.
        """
        if name not in self._values:
            self._values[name] = self._reducer.first(compute)
            self.write(None)
        return self._values[name]

    def write(
        self, state: Any, new: Sequence[tuple[int, Any]] = (), finished: bool = False
    ) -> bool:
        """Write the state of a fit; where that fails, warn once and leave the old one.

        Parameters
        ----------
        state : object
            Everything that the fit needs to continue, see `packing.write_packed`.
        new : sequence of (int, object)
            Owners and parts that have come since the last write, such as chains and draws.
        finished : bool
            Whether the fit has ended.

        Returns
        -------
        bool
            Whether it was written.

        Warns
        -----
        UserWarning
            If it cannot be written.
        """
        if self._reducer.rank > 0:
            self._written = time.perf_counter()
            return True
        parts = list(self._parts)
        try:
            for owner, part in new:
                name = _PART.format(len(parts))
                checksum = write_packed(self._folder / name, part)
                parts.append({"owner": owner, "name": name, "checksum": checksum})
            record = {
                "fingerprint": self._fingerprint,
                "finished": finished,
                "seconds": self.seconds + time.perf_counter() - self._started,
                "values": self._values,
                "parts": parts,
                "state": state,
            }
            write_packed(self._folder / _STATE, record)
        except OSError as error:
            self._warn_once(error)
            return False
        else:
            self._parts = parts
            return True
        finally:
            self._written = time.perf_counter()

    def _read_part(self, name: str, checksum: str, owner: int) -> Any:
        tree, found = read_packed(self._folder / name)
        if found != checksum:
            raise StorageError(
                f"{self._folder / name} does not belong to the state beside it: delete the folder "
                "and fit again, or choose another."
            )
        return tree

    def _warn_once(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            warn(
                f"Cannot write the checkpoint in {self._folder}: {error}. The fit goes on, tries "
                "again, and keeps the last checkpoint: make room, or stop and resume elsewhere."
            )

    def _require_writable(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            trial = self._folder / "trial.safetensors"
            write_packed(trial, self._fingerprint)
            trial.unlink()
        except OSError as error:
            raise StorageError(
                f"Cannot write a checkpoint to {self._folder}: {error}. Choose a folder that can "
                "be written, on a disk with room."
            ) from error

    def _open(self, resume: bool) -> dict[str, Any] | None:
        """Return the record in the folder to continue from; None to begin."""
        if holds_posterior(self._folder):  # which would not be replaced with other files in it
            raise StorageError(
                f"{self._folder} holds a saved posterior: choose another folder for the "
                "checkpoint."
            )
        self._require_writable()
        if not (self._folder / _STATE).exists():
            return None
        record, _ = read_packed(self._folder / _STATE)
        if not resume:
            self._discard(record)
            return None
        self._require_same(record)
        return record

    def _require_same(self, record: dict[str, Any]) -> None:
        """Refuse a record of another fit."""
        ours, theirs = self._fingerprint, record["fingerprint"]
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        if names:
            differences = "; ".join(
                f"{name} was {_short(theirs.get(name))} and is {_short(ours.get(name))}"
                for name in names
            )
            raise StorageError(
                f"The checkpoint in {self._folder} is of another fit: {differences}. Fit with the "
                "same again, or choose another folder."
            )

    def _discard(self, record: dict[str, Any]) -> None:
        """Make room for a new fit, unless the old one may go on."""
        if not record["finished"]:
            raise StorageError(
                f"{self._folder} holds the checkpoint of a fit that has not ended: give "
                "resume=True to continue it, choose another folder, or delete this one."
            )
        (self._folder / _STATE).unlink()
        for part in record["parts"]:
            (self._folder / part["name"]).unlink(missing_ok=True)


def open_checkpoint(
    checkpoint: str | os.PathLike[str] | Checkpoint | None,
    resume: bool,
    fingerprint: Callable[[], Fingerprint],
    reducer: Reducer,
) -> OpenCheckpoint | None:
    """Open the checkpoint that `fit` was given.

    Parameters
    ----------
    checkpoint : path-like or Checkpoint, optional
        Where, and how often; see `Checkpoint`.
    resume : bool
        Whether to continue from the state in the folder.
    fingerprint : callable
        Returns the `Fingerprint` of the fit.
    reducer : Reducer
        Sums over the processes that share the fit.

    Returns
    -------
    OpenCheckpoint or None
        None without a checkpoint.

    Raises
    ------
    FitError
        If an argument is not valid, or there is nothing to resume from.
    StorageError
        See `OpenCheckpoint`.
    """
    if not isinstance(resume, bool):
        raise FitError(f"resume must be True or False, not {resume!r}.")
    if checkpoint is None:
        if resume:
            raise FitError("resume=True needs the folder of a checkpoint: give checkpoint=PATH.")
        return None
    options = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    prints = reducer.each(fingerprint())
    whole = {name: " ".join(dict.fromkeys(p[name] for p in prints)) for name in prints[0]}
    return OpenCheckpoint(options, whole, resume, reducer)


def fingerprint_of(
    model: Callable[..., Any],
    ratings: Ratings,
    method: Any,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
    history: Pairs | None,
    start: Learned | None = None,
) -> Fingerprint:
    """Return everything that decides the numbers of a fit, by name.

    Parameters
    ----------
    model : callable
        The model.
    ratings : Ratings
        The training ratings.
    method : MAP, VI, Gibbs or NUTS
        The method.
    seed : int
        Seed of the fit.
    device : torch.device
        Device of the fit.
    dtype : torch.dtype or None
        Floating point type of the fit; None for the default of the method.
    history : Pairs or None
        All pairs with I_ij = 1; None if these are the training pairs.
    start : Learned, optional
        The earlier fit from which this one begins.

    Returns
    -------
    dict of str to str
        Texts and checksums. Of functions and modules, it has the name and the source.
    """
    options = {
        f"method.{f.name}": _told(getattr(method, f.name))
        for f in fields(method)
        if f.name not in _NO_NUMBERS
    }
    return {
        "format": str(_FORMAT),
        **{name: version(name) for name in _PACKAGES},
        "model": _told(model),
        "method": type(method).__name__,
        **options,
        "seed": str(int(seed)),
        "device": str(device),
        "dtype": str(dtype or ratings.dtype),
        "ratings": _told(ratings),
        "history": _told(history),
        "start": _told(start),
    }


def _told(x: Any) -> str:
    """Return a text that is the same for the same value, in another process too."""
    if isinstance(x, Ratings):
        return _digest(x.to_frame(), x.user_ids, x.item_ids, x.scale, x.transform, x.recorded)
    if isinstance(x, Pairs):
        return _digest(pd.DataFrame({"user": x.user.cpu(), "item": x.item.cpu()}))
    if isinstance(x, pd.DataFrame):
        return _digest(x)
    if isinstance(x, Learned):
        tensors = [(name, _tensors(value)) for name, value in sorted(x.latents.items())]
        return _digest(_told(x.ratings), *(part for pair in tensors for part in pair))
    if isinstance(x, torch.nn.Module):
        x = type(x)  # the text of a guide changes when it is first used
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(x))
    if not inspect.isroutine(x) and not inspect.isclass(x):
        return text
    try:
        return f"{text} {_digest(inspect.getsource(x))}"
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        return text


def _tensors(value: Value) -> pd.DataFrame:
    """Return the numbers that describe a latent as a table."""
    parts = [value] if isinstance(value, Tensor) else [value.mean, value.var]
    return pd.DataFrame({str(k): part.flatten().numpy() for k, part in enumerate(parts)})


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, pd.DataFrame):
            digest.update(repr([*part.dtypes.items()]).encode())
            digest.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
        elif isinstance(part, pd.Index):
            digest.update(repr(part.tolist()).encode())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


def _short(text: str | None) -> str:
    text = text or "absent"
    return text if len(text) <= 200 else f"{text[:200]}..."
