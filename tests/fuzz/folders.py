"""Altered folders of saved posteriors: each is refused, or holds a posterior that answers.

A folder with other bytes is always refused. One that was altered and signed again is refused if
its parts contradict each other; if they do not, as after another number among the factors, it is
a posterior like any other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from hypothesis import strategies as st
from pyarrow.parquet import ParquetFile, write_table
from safetensors.torch import load_file, save_file

from pyro_pmf import PMFError, StorageError, load

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = (
    "format-6-vi",
    "format-6-draws",
    "format-6-counts",
    "format-5-vi",
    "format-5-draws",
    "format-5-counts",
    "format-4-vi",
    "format-4-draws",
    "format-4-counts",
    "format-3-vi",
    "format-3-draws",
)
TABLES = ("users", "items", "ratings", "steps", "history")
PAIRS = pd.DataFrame({"user": ["ann", "nobody"], "item": [7, 99]})
ODD = (None, True, -1, 0, 1, 2, 3, 10**6, 10**30, 0.5, -0.5, 1e308, "", "no", "3", [], [1, 0], {})
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1.0, 0.5, 1e-30, 1e30)


@dataclass(frozen=True)
class Alteration:
    """One input: a folder, and what is done to it.

    Attributes
    ----------
    folder : str
        One of `FOLDERS`.
    what : {"bytes", "header", "table", "tensors", "files"}
        What is altered. Everything but bytes is signed again.
    numbers : tuple of int
        Which file, entry, row or value; each is taken modulo the number of choices.
    """

    folder: str
    what: str
    numbers: tuple[int, ...]


def inputs() -> st.SearchStrategy[Alteration]:
    """Return the strategy that makes inputs."""
    number = st.integers(0, 2**20)
    return st.builds(
        Alteration,
        st.sampled_from(FOLDERS),
        st.sampled_from(sorted(ALTER)),
        st.tuples(*[number] * 5),
    )


def try_one(alteration: Alteration) -> str:
    """Try to load an altered folder and to predict from it; return what happened.

    Parameters
    ----------
    alteration : Alteration
        The input.

    Returns
    -------
    str
        What was altered, then "refused", "the same" or "another posterior".

    Raises
    ------
    AssertionError
        If other bytes were loaded.
    Exception
        Any error that is not a `PMFError` is a fault of the package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "m.pmf"
        shutil.copytree(GOLDEN / alteration.folder, folder)
        before = contents(folder)
        ALTER[alteration.what](folder, *alteration.numbers)
        signed = alteration.what != "bytes"
        if signed:
            sign(folder)
        try:
            table = load(folder).predict(PAIRS)
        except StorageError:
            return f"{alteration.what}: refused"
        except PMFError:  # it answers, by a clear error
            return f"{alteration.what}: another posterior"
        is_older = not (folder / "SHA256SUMS").exists()
        changed = contents(folder) != before
        assert signed or is_older or not changed, "other bytes were loaded"
        same = table.equals(_predicted(alteration.folder))
        return f"{alteration.what}: {'the same' if same else 'another posterior'}"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def sign(folder: Path) -> None:
    """Write the checksums that suit the files, as one would who alters a folder on purpose."""
    if (folder / "SHA256SUMS").exists():
        names = [file.name for file in sorted(folder.iterdir()) if file.name != "SHA256SUMS"]
        lines = [f"{hashlib.sha256((folder / x).read_bytes()).hexdigest()}  {x}\n" for x in names]
        (folder / "SHA256SUMS").write_text("".join(lines))


def change_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the entries of the header in place, and sign the folder again."""
    header = json.loads((folder / "posterior.json").read_text())
    change(header)
    (folder / "posterior.json").write_text(json.dumps(header))
    sign(folder)


def change_table(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a table by another, and sign the folder again."""
    with ParquetFile(folder / f"{name}.parquet") as file:
        table = file.read()
    write_table(change(table), folder / f"{name}.parquet")
    sign(folder)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors in place, and sign the folder again."""
    tensors = load_file(folder / "latents.safetensors")
    change(tensors)
    save_file({k: x.contiguous() for k, x in tensors.items()}, folder / "latents.safetensors")
    sign(folder)


def _bytes(folder: Path, which: int, place: int, byte: int, how: int, _: int) -> None:
    file = sorted(folder.iterdir())[which % len(list(folder.iterdir()))]
    data = bytearray(file.read_bytes())
    place %= len(data)
    if how % 3 == 0:
        data = data[:place]
    elif how % 3 == 1:
        data.insert(place, byte % 256)
    else:
        data[place] = byte % 256
    file.write_bytes(data)


def _header(folder: Path, which: int, value: int, how: int, more: int, _: int) -> None:
    header = json.loads((folder / "posterior.json").read_text())
    places = list(_places(header))
    inside, name = places[which % len(places)]
    if how % 5 == 0:
        del inside[name]
    elif how % 5 == 1 and isinstance(inside, dict):
        inside["more"] = ODD[value % len(ODD)]
    elif how % 5 == 2:  # another entry in its place
        other, key = places[more % len(places)]
        inside[name] = json.loads(json.dumps(other[key]))
    else:
        inside[name] = ODD[value % len(ODD)]
    (folder / "posterior.json").write_text(json.dumps(header))


def _places(data: Any) -> Any:
    """Iterate over all entries of nested lists and dicts: what they are in, and their name."""
    names = data if isinstance(data, dict) else range(len(data))
    for name in list(names):
        yield data, name
        if isinstance(data[name], dict | list):
            yield from _places(data[name])


def _table(folder: Path, which: int, row: int, column: int, value: int, how: int) -> None:
    names = [name for name in TABLES if (folder / f"{name}.parquet").exists()]
    file = folder / f"{names[which % len(names)]}.parquet"
    with ParquetFile(file) as parquet:
        frame = parquet.read().to_pandas()
    row, name = row % len(frame), frame.columns[column % frame.shape[1]]
    odd = (*NUMBERS, *frame[name].tolist())[value % (len(NUMBERS) + len(frame))]
    if how % 7 == 0:
        frame = frame.drop(index=row)
    elif how % 7 == 1:
        frame = pd.concat([frame, frame.iloc[[row]]])
    elif how % 7 == 2:
        frame = frame.iloc[np.random.default_rng(value).permutation(len(frame))]
    elif how % 7 == 3:
        frame = frame.rename(columns={name: ("user", "item", "more")[value % 3]})
    elif how % 7 == 4:
        frame[name] = frame[name].astype(("str", "object", "category")[value % 3])
    elif how % 7 == 5:
        frame = frame.drop(columns=name)
    else:
        values = frame[name].astype(object)
        values[row] = odd
        kept = {type(x) for x in values} in ({int}, {float}, {str}, {pd.Timestamp})
        frame[name] = pd.Series(values.tolist()) if kept else values.astype(str)
    if frame.columns.is_unique:
        write_table(pa.Table.from_pandas(frame, preserve_index=False), file)


def _tensors(folder: Path, which: int, place: int, value: int, how: int, more: int) -> None:
    tensors = load_file(folder / "latents.safetensors")
    names = sorted(tensors)
    name, other = names[which % len(names)], names[more % len(names)]
    x = tensors[name]
    if how % 6 == 0:
        del tensors[name]
    elif how % 6 == 1:
        tensors[name], tensors[other] = tensors[other], x
    elif how % 6 == 2:
        tensors[name] = x.to((torch.float64, torch.float16, torch.int64, torch.bool)[value % 4])
    elif how % 6 == 3:
        other_shapes = (x[None], x.flatten(), x[..., None], x.flatten()[:1])
        tensors[name] = other_shapes[value % 4]
    elif how % 6 == 4:
        tensors["more"] = x.clone()
    else:
        x.view(-1)[place % x.numel()] = NUMBERS[value % len(NUMBERS)]
    save_file(
        {k: t.clone().contiguous() for k, t in tensors.items()}, folder / "latents.safetensors"
    )


def _files(folder: Path, which: int, other: int, how: int, place: int, _: int) -> None:
    files = [file for file in sorted(folder.iterdir()) if file.name != "SHA256SUMS"]
    file, second = files[which % len(files)], files[other % len(files)]
    if how % 5 == 0:
        file.unlink()
    elif how % 5 == 1:
        one, two = file.read_bytes(), second.read_bytes()
        file.write_bytes(two)
        second.write_bytes(one)
    elif how % 5 == 2:
        file.write_bytes(file.read_bytes()[: place % file.stat().st_size])
    elif how % 5 == 3:
        donor = GOLDEN / FOLDERS[place % len(FOLDERS)] / file.name
        if donor.exists():
            file.write_bytes(donor.read_bytes())
    else:
        (folder / "stranger.txt").write_text("not of this package")


ALTER: dict[str, Callable[..., None]] = {
    "bytes": _bytes,
    "header": _header,
    "table": _table,
    "tensors": _tensors,
    "files": _files,
}


@cache
def _predicted(name: str) -> pd.DataFrame:
    return load(GOLDEN / name).predict(PAIRS)
