"""The parts of a fit that processes shared: their folders, and the whole that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.gaussian import Value

_NAME = re.compile(r"part-(\d{5})-of-(\d{5})")


def folder_of_part(folder: Path, part: tuple[int, int]) -> Path:
    """Return the folder of one part inside that of the whole.

    Parameters
    ----------
    folder : Path
        The folder of the whole.
    part : (int, int)
        Number of the part, from 0, and number of parts.
    """
    return folder / f"part-{part[0]:05d}-of-{part[1]:05d}"


def folders_of_parts(folder: Path) -> list[Path]:
    """Return the folders of all parts, in their order; none if this folder has no parts.

    Raises
    ------
    ValueError
        If some are missing, or there are parts of several fits.
    """
    found = sorted(path for path in folder.glob("part-*-of-*") if _NAME.fullmatch(path.name))
    if not found:
        return []
    sizes = {int(path.name[-5:]) for path in found}
    wanted = [folder_of_part(folder, (k, min(sizes))) for k in range(min(sizes))]
    if found != wanted:
        raise ValueError(
            f"it holds {', '.join(path.name for path in found)} in the place of all parts of one "
            "fit: save it again to another folder"
        )
    return found


def joined(parts: Sequence[Learned]) -> Learned:
    """Return the fit of all users.

    Parameters
    ----------
    parts : sequence of Learned
        Parts of one fit: each has the rows of its own users, and those of all items.

    Raises
    ------
    ValueError
        If they are not parts of one fit.
    """
    first = parts[0]
    own = {term.site for term in terms_of(first.model) if term.plate == "users"}
    for part in parts[1:]:
        same = part.latents.keys() == first.latents.keys() and all(
            _is_same(value, part.latents[site])
            for site, value in first.latents.items()
            if site not in own
        )
        is_of_one = same and repr(part.model) == repr(first.model)
        if not is_of_one or not part.ratings.item_ids.equals(first.ratings.item_ids):
            raise ValueError("its parts are of several fits: save one again to another folder")
    ids = first.ratings.user_ids.append([part.ratings.user_ids for part in parts[1:]])
    if not ids.is_unique:
        raise ValueError("its parts have users in common")
    order = ids.argsort()
    dim = 0 if first.n_draws is None else 1
    latents = {
        site: _rows([part.latents[site] for part in parts], order, dim) if site in own else value
        for site, value in first.latents.items()
    }
    converged = Converged(
        all(part.converged.predictions for part in parts),
        all(part.converged.parameters for part in parts),
    )
    ratings = _joined_ratings([part.ratings for part in parts], ids[order])
    return replace(first, ratings=ratings, latents=latents, converged=converged, part=None)


def _joined_ratings(parts: list[Ratings], user_ids: pd.Index) -> Ratings:
    wider = [part.indexed_by(user_ids, part.item_ids) for part in parts]
    user = torch.cat([part.user for part in wider])
    order = torch.argsort(user, stable=True)
    rows = order.numpy()
    rating = time = None
    if all(part.rating is not None for part in parts):
        rating = np.concatenate([np.asarray(part.rating) for part in parts])[rows]
    if all(part.time is not None for part in parts):
        time = pd.concat([part.time for part in parts], ignore_index=True).iloc[rows]
    item = torch.cat([part.item for part in wider])[order]
    return wider[0].replaced(user=user[order], item=item, rating=rating, time=time)


def _rows(values: Sequence[Value], order: np.ndarray, dim: int) -> Value:
    """Return the rows of some latents, one after the other, in an order."""
    index = torch.from_numpy(order.copy())
    if isinstance(values[0], Tensor):
        whole_of_all = torch.cat([torch.as_tensor(value) for value in values], dim)
        return whole_of_all.index_select(dim, index)
    pieces: list[Any] = [[] for _ in _tensors(values[0])]
    for value in values:
        for piece, tensor in zip(pieces, _tensors(value), strict=True):
            piece.append(tensor)
    whole = iter([torch.cat(piece)[index] for piece in pieces])
    return values[0].map(lambda _: next(whole))


def _is_same(a: Value, b: Value) -> bool:
    pairs = list(zip(_tensors(a), _tensors(b), strict=False))
    return type(a) is type(b) and all(torch.equal(x, y) for x, y in pairs)


def _tensors(value: Value) -> list[Tensor]:
    """Return the parameters of a random quantity, or the tensor itself."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        found.append(x)
        return x

    value.map(note)
    return found
