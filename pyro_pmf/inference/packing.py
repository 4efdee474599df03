"""Nested states as files: JSON and arrays in one safetensors file with a checksum, no pickle."""

from __future__ import annotations

import hashlib
import json
import operator
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from pyro_pmf.errors import StorageError
from pyro_pmf.files import write_file

_KIND = "$"  # key of a JSON object that stands for something that JSON lacks


def write_packed(path: Path, tree: Any) -> str:
    """Write a tree to a file: completely, or not at all.

    A process that is killed at any moment leaves either the old file or the new one, see
    `files.write_file`.

    Parameters
    ----------
    path : Path
        The file.
    tree : object
        Dicts, lists, tuples, deques and dataclasses of tensors, NumPy arrays, numbers and strings.

    Returns
    -------
    str
        Checksum of the content.

    Raises
    ------
    OSError
        If the file cannot be written. An old file is then left as it was.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_pack(tree, arrays), default=operator.index)  # for NumPy's integers
    checksum = _checksum(text, arrays)
    data = save(arrays, metadata={"tree": text, "sha256": checksum})
    write_file(path, data)
    return checksum


def read_packed(path: Path) -> tuple[Any, str]:
    """Read a tree from a file.

    Parameters
    ----------
    path : Path
        A file of `write_packed`.

    Returns
    -------
    tree : object
        The tree; dataclasses are dicts and deques are lists, see `filled`. Tensors have the
        strides and the device that they had.
    checksum : str
        Checksum of the content.

    Raises
    ------
    StorageError
        If the file is not there, cannot be read, or is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = _checksum(metadata["tree"], arrays)
        if checksum != metadata["sha256"]:
            raise ValueError("its checksum is wrong")
        return _unpack(json.loads(metadata["tree"]), arrays), checksum
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise StorageError(
            f"{path} is damaged ({error}): delete its folder and fit again, or choose another."
        ) from error


def filled(like: Any, data: Any) -> Any:
    """Return data in the classes of an object: its dataclasses and deques.

    Parameters
    ----------
    like : object
        An object of the classes wanted.
    data : object
        A tree that `read_packed` returned.
    """
    if is_dataclass(like) and not isinstance(like, type):
        parts = {f.name: filled(getattr(like, f.name), data[f.name]) for f in fields(like)}
        return type(like)(**parts)
    return deque(data, like.maxlen) if isinstance(like, deque) else data


def _pack(x: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a tree as JSON; its arrays go into a dict."""
    if is_dataclass(x) and not isinstance(x, type):
        x = vars(x)
    if isinstance(x, Mapping):
        return {name: _pack(value, arrays) for name, value in x.items()}
    if isinstance(x, list | deque):
        return [_pack(value, arrays) for value in x]
    if isinstance(x, tuple):
        return {_KIND: "tuple", "items": [_pack(value, arrays) for value in x]}
    if not isinstance(x, Tensor | np.ndarray):
        return x
    name = str(len(arrays))
    if isinstance(x, np.ndarray):
        arrays[name] = np.asarray(x, order="C")
        return {_KIND: "array", "name": name}
    if 0 in x.stride():  # an expanded tensor, whose entries are not apart
        x = x.contiguous()
    arrays[name] = np.asarray(x.detach().cpu().numpy(), order="C")
    # Sums and products of matrices may round differently for other strides.
    return {_KIND: "tensor", "name": name, "stride": x.stride(), "device": str(x.device)}


def _unpack(x: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(x, list):
        return [_unpack(value, arrays) for value in x]
    if not isinstance(x, dict):
        return x
    kind = x.get(_KIND)
    if kind == "tuple":
        return tuple(_unpack(value, arrays) for value in x["items"])
    if kind == "array":
        return np.array(arrays[x["name"]])
    if kind == "tensor":
        value = torch.from_numpy(np.array(arrays[x["name"]]))
        tensor = torch.empty_strided(
            value.shape, x["stride"], dtype=value.dtype, device=x["device"]
        )
        return tensor.copy_(value)
    return {name: _unpack(value, arrays) for name, value in x.items()}


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
