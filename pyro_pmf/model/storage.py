"""Save and load a posterior: a folder of JSON, safetensors and Parquet, no pickle.

    posterior.json         what is neither a table nor a tensor, see `header`
    latents.safetensors    draws, or the moments of each latent
    users.parquet          ids of users, in the order of the rows of U
    items.parquet          ids of items, in the order of the rows of V
    ratings.parquet        user, item: indices; rating and time, where they are saved
    history.parquet        user, item: indices; only of a fit with a history
    steps.parquet          the course of the fit
    SHA256SUMS             a checksum of each file above

Checksums tell accidental damage. `soundness` tells what somebody altered who also wrote new
checksums, as far as the parts of a fit contradict each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from pyarrow.parquet import ParquetFile, write_table
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import StorageError
from pyro_pmf.files import CHECKSUMS, clear_up, standing, verify, write_folder
from pyro_pmf.model.header import Header, OtherFormatError, header_of, n_rows, read_header
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.parts import folder_of_part, folders_of_parts, joined
from pyro_pmf.model.soundness import require_sound
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value
from pyro_pmf.reducer import is_first

_HEADER, _LATENTS, _STEPS = "posterior.json", "latents.safetensors", "steps.parquet"
_USERS, _ITEMS, _RATINGS = "users.parquet", "items.parquet", "ratings.parquet"
_FILES = (_HEADER, _LATENTS, _USERS, _ITEMS, _RATINGS, _STEPS)
_HISTORY = "history.parquet"


def save(
    learned: Learned,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    training_ratings: bool = True,
) -> None:
    """Write a fit to a folder; see `Posterior.save`.

    Where processes share a fit and all have the whole of it, the first of them writes it; where
    each has a part, each writes its own.

    Parameters
    ----------
    learned : Learned
        The fit to save.
    path : path-like
        The folder to make.
    overwrite : bool
        Whether to replace a posterior that is saved there.
    training_ratings : bool
        Whether to save the training ratings and their times, and not only their pairs.

    Raises
    ------
    StorageError
        If the path exists and may not be replaced, or cannot be written; if an id cannot be
        stored, or the fit is not sound.
    """
    if learned.part is None and not is_first():
        return
    learned = learned if training_ratings else learned.without_training_ratings()
    try:
        require_sound(learned)
        header = header_of(learned)
        ids = {side: _ids_as_table(learned.ratings, side) for side in ("user", "item")}
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"Nothing was saved, since it could not be loaded again: {error}."
        ) from error

    def write(folder: Path) -> None:
        (folder / _HEADER).write_text(header, encoding="utf-8")
        save_file(_as_tensors(learned), folder / _LATENTS)
        write_table(ids["user"], folder / _USERS)
        write_table(ids["item"], folder / _ITEMS)
        _write_frame(_pairs_as_frame(learned.ratings), folder / _RATINGS)
        _write_frame(learned.steps, folder / _STEPS)
        if learned.history is not None:
            _write_frame(_pairs_as_frame(learned.history), folder / _HISTORY)

    target = _resolved(path)
    if learned.part is not None:
        if (target / _HEADER).exists():
            raise StorageError(f"{target} holds a whole posterior: choose another folder.")
        target = folder_of_part(target, learned.part)
    try:
        clear_up(target, (*_FILES, _HISTORY, CHECKSUMS))
        write_folder(target, write, _files_to_replace(target, overwrite))
    except (OSError, SafetensorError, pa.ArrowException) as error:
        raise StorageError(
            f"Cannot write to {target}: {error}. Choose a folder that can be written, on a disk "
            "with room. Whatever was saved there before is as it was."
        ) from error


def read(
    path: str | os.PathLike[str],
    model: Callable[..., Any] | None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Read a saved fit from a folder; see `posterior.load`.

    Parameters
    ----------
    path : path-like
        The folder that `save` wrote.
    model : callable, or None
        The Pyro model that was fitted; None to read a `PMF` from the folder.
    device : str or torch.device
        Device of the latents and of the training ratings.

    Returns
    -------
    dict of str to Any
        The fields of `Learned`, by name.

    Raises
    ------
    StorageError
        If the folder is not a saved posterior, is damaged or altered, has another format, or needs
        ``model``; or if there is no such device.
    """
    target = _resolved(path)
    try:
        folder = standing(target)
        is_there = (folder / _HEADER).is_file()
        number = folder.stat().st_ino if is_there else 0
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    if not is_there and (whole := _read_parts(folder, model)) is not None:
        return vars(whole.to(device))
    if not is_there:
        raise StorageError(f"{path} is not a saved posterior: it lacks {_HEADER}.")
    try:
        learned = _read(folder, model)
    except OtherFormatError as error:
        raise StorageError(f"{path} {error}") from error
    except PermissionError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    except Exception as error:
        found = standing(target)
        if found.exists() and found.stat().st_ino != number:
            return read(path, model, device)  # it was replaced while it was read
        if isinstance(error, _NeedsModelError):
            raise StorageError(
                f"{path} holds the fit of a model of your own, whose code is not saved: give "
                "load(path, model=...)."
            ) from error
        if isinstance(error, _HasModelError):
            raise StorageError(
                f"{path} holds the fit of a PMF, and says which: leave model={model!r} out."
            ) from error
        raise StorageError(
            f"{path} is damaged or was altered, so fit and save it again: {error}."
        ) from error
    try:
        return vars(learned.to(device))
    except (RuntimeError, AssertionError) as error:  # torch has both for a GPU that is not there
        raise StorageError(
            f"A posterior cannot be put on the device {device!r}: {error}. Leave device= out."
        ) from error


def _read_parts(folder: Path, model: Callable[..., Any] | None) -> Learned | None:
    """Return the fit whose parts are in a folder; None if there are none."""
    try:
        folders = folders_of_parts(folder)
        if not folders:
            return None
        parts = [Learned(**read(part, model)) for part in folders]
        whole = joined(parts)
        require_sound(whole)
    except StorageError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{folder} cannot be read: {error}.") from error
    return whole


class _NeedsModelError(ValueError):
    """Raised for a folder without a model."""


class _HasModelError(ValueError):
    """Raised for a model in the place of the one that a folder has."""


def _read(folder: Path, model: Callable[..., Any] | None) -> Learned:
    """Return a fit whose parts suit each other; any exception says why they do not."""
    checked = verify(folder) if (folder / CHECKSUMS).exists() else []
    header = read_header((folder / _HEADER).read_bytes())
    _require_files(folder, header, checked)
    if (model is None) == (header.model is None):
        raise _NeedsModelError if model is None else _HasModelError
    model = model or header.model
    assert model is not None
    ratings = _read_ratings(folder, header)
    tensors = load_file(folder / _LATENTS)
    latents = {site: _take_value(site, kind, tensors) for site, kind in header.latents.items()}
    if tensors:
        raise ValueError(f"it has tensors of no latent: {sorted(tensors)}")
    learned = Learned(
        model=model,
        ratings=ratings,
        latents=latents,
        n_draws=header.n_draws,
        steps=_read_frame(folder / _STEPS),
        converged=header.converged,
        n_chains=header.n_chains,
        history=_read_history(folder, ratings) if header.history else None,
    )
    require_sound(learned)
    if header.n_rows not in (None, rows := n_rows(learned)):
        raise ValueError(f"its tables have {rows} rows in the place of {header.n_rows}")
    return learned


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Return a path without links, so that a link to a folder stays a link to it."""
    try:
        return Path(os.path.realpath(path))
    except (TypeError, ValueError, OSError) as error:  # such as for a character NUL
        raise StorageError(f"{path!r} is not the path of a folder: {error}.") from error


def _require_files(folder: Path, header: Header, checked: list[str]) -> None:
    """Check that the files of a folder are those that its header says, all with a checksum."""
    wanted = {*_FILES, *([_HISTORY] if header.history else [])}
    there = {name for name in wanted if (folder / name).is_file()}
    if not header.is_older:
        wanted, there = wanted | {CHECKSUMS}, set(checked)
    if missing := wanted - there:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if more := there - wanted:
        raise ValueError(f"its header does not know {', '.join(sorted(more))}")


def holds_posterior(folder: Path) -> bool:
    """Return whether a folder is a saved posterior; not whether it is whole."""
    return (folder / _HEADER).is_file()


def require_place(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse, before a long fit, a path that `save` would refuse.

    Parameters
    ----------
    path, overwrite
        As for `save`.

    Raises
    ------
    StorageError
        If the path exists and may not be replaced, or nothing can be written beside it.
    """
    target = _resolved(path)
    _files_to_replace(target, overwrite)
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise StorageError(f"Cannot write to {target}: {above} is no folder that can be written.")


def _files_to_replace(target: Path, overwrite: bool) -> list[str] | None:
    """Return the names of all files of a saved posterior; None where nothing stands."""
    if not os.path.lexists(target):
        return None
    if not holds_posterior(target):
        raise StorageError(f"{target} exists and is not a saved posterior: choose another name.")
    if not overwrite:
        raise StorageError(f"{target} exists: choose another name, or give overwrite=True.")
    try:
        checked = verify(target) if (target / CHECKSUMS).exists() else []
        header = read_header((target / _HEADER).read_bytes())
        _require_files(target, header, checked)
    except Exception as error:
        raise StorageError(
            f"{target} is not a whole saved posterior ({error}), so it is not replaced: choose "
            "another name, or delete it yourself."
        ) from error
    ours = checked or [*_FILES, *([_HISTORY] if header.history else [])]
    if strangers := {file.name for file in target.iterdir()} - set(ours):
        raise StorageError(
            f"{target} also holds {', '.join(sorted(strangers))}, which is no part of a saved "
            "posterior, so it is not replaced: move that elsewhere, or choose another name."
        )
    return ours


def _ids_as_table(ratings: Ratings, side: str) -> pa.Table:
    """Return the ids of one side as a table; refuse ids that Parquet cannot hold."""
    ids = (ratings.user_ids if side == "user" else ratings.item_ids).tolist()
    if isinstance(ids[0], str):
        kind_of_ids, remedy = pa.large_string(), "text of whole characters, not U+D800 to U+DFFF"
    else:
        kind_of_ids = pa.int64() if ids[-1] < 2**63 else pa.uint64()
        remedy = "int from -2^63 to 2^63 - 1, or text"
    try:
        return pa.table({side: pa.array(ids, kind_of_ids)})
    except (OverflowError, UnicodeEncodeError, pa.ArrowException) as error:
        raise ValueError(
            f"Parquet cannot hold the {side} ids {ids[0]!r} to {ids[-1]!r} ({error}); fit with "
            f"ids that are {remedy}"
        ) from error


def _pairs_as_frame(pairs: Pairs) -> pd.DataFrame:
    columns: dict[str, Any] = {"user": pairs.user.cpu().numpy(), "item": pairs.item.cpu().numpy()}
    if isinstance(pairs, Ratings) and pairs.rating is not None:
        columns["rating"] = pairs.rating
        if pairs.time is not None:
            columns["time"] = pairs.time
    return pd.DataFrame(columns)


def _write_frame(frame: pd.DataFrame, file: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    write_table(table.replace_schema_metadata(None), file)


def _read_table(file: Path) -> pa.Table:
    with ParquetFile(file) as parquet:  # of read_table, names of folders may become columns
        table = parquet.read().replace_schema_metadata(None)
    if any(column.null_count for column in table.columns):
        raise ValueError(f"{file.name} has an empty cell")
    return table


def _read_frame(file: Path) -> pd.DataFrame:
    return _read_table(file).to_pandas()


def _read_ids(file: Path, name: str) -> pd.Index:
    table = _read_table(file)
    types = pa.int64(), pa.uint64(), pa.string(), pa.large_string()
    if table.column_names != [name] or table.schema.types[0] not in types:
        raise ValueError(f"{file.name} holds {table.schema.to_string()}")
    return pd.Index(table.column(0).to_pylist())


def _read_pairs(file: Path, *more: str) -> tuple[Tensor, Tensor, pd.DataFrame]:
    frame = _read_frame(file)
    types = [str(frame[name].dtype) for name in frame.columns[:2]]
    if list(frame.columns) != ["user", "item", *more] or types != ["int64", "int64"]:
        raise ValueError(f"{file.name} has the columns {dict(frame.dtypes)}")
    user, item = (torch.tensor(frame[side].to_numpy()) for side in ("user", "item"))
    return user, item, frame


def _read_ratings(folder: Path, header: Header) -> Ratings:
    users, items = (
        _read_ids(folder / file, "id" if header.is_older else side)
        for file, side in ((_USERS, "user"), (_ITEMS, "item"))
    )
    has_time = header.time
    if has_time is None:
        with ParquetFile(folder / _RATINGS) as parquet:
            has_time = "time" in parquet.schema_arrow.names
    columns = [*(["rating"] if header.values else []), *(["time"] if has_time else [])]
    user, item, frame = _read_pairs(folder / _RATINGS, *columns)
    if header.values and frame["rating"].dtype != "float64":
        raise ValueError(f"the ratings are of type {frame['rating'].dtype}")
    return Ratings(
        user,
        item,
        users,
        items,
        header.scale,
        frame["rating"].to_numpy(copy=True) if header.values else None,
        frame.get("time"),
        header.dtype,
        header.transform,
        header.recorded,
        header.columns,
    )


def _read_history(folder: Path, ratings: Ratings) -> Pairs:
    user, item, _ = _read_pairs(folder / _HISTORY)
    return Pairs(user, item, ratings.n_users, ratings.n_items, dtype=ratings.dtype)


def _as_tensors(learned: Learned) -> dict[str, Tensor]:
    """Return all numbers of the latents by name, written out and on the CPU."""
    return {
        name: tensor.contiguous().cpu()
        for site, value in learned.latents.items()
        for name, tensor in _parts(site, value).items()
    }


def _parts(site: str, value: Value) -> dict[str, Tensor]:
    if isinstance(value, LogGaussian):
        whole = value.map(lambda x: x)
        return {f"{site}.log_mean": whole.log_mean, f"{site}.log_var": whole.log_var}
    if isinstance(value, Gaussian):
        return {f"{site}.mean": value.mean, f"{site}.var": value.var}
    assert isinstance(value, Tensor)
    return {site: value}


def _take_value(site: str, kind: str, tensors: dict[str, Tensor]) -> Value:
    """Take the tensors of one latent out of a dict."""
    sites = frozenset({site})
    if kind == "Gaussian":
        return Gaussian(tensors.pop(f"{site}.mean"), tensors.pop(f"{site}.var"), sites)
    if kind == "LogGaussian":
        return LogGaussian(tensors.pop(f"{site}.log_mean"), tensors.pop(f"{site}.log_var"), sites)
    return tensors.pop(site)
