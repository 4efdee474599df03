"""The header of a saved posterior: all that is neither a table nor a tensor, as JSON.

Every entry is read with its type, and no other entry is taken. `soundness` checks that the
entries suit each other, the tables and the tensors.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import torch

from pyro_pmf.data.columns import Columns
from pyro_pmf.data.levels import Recorded
from pyro_pmf.data.transforms import Affine, Log1p
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Priors

FORMAT = 6
READABLE = (2, 3, 4, 5, FORMAT)
_SIGNED = 4  # the first format with checksums
_INFINITE = "inf"  # JSON has no such number
KINDS = ("Gaussian", "LogGaussian", "Tensor")  # of a latent
_PACKAGES = ("pyro-pmf", "torch", "pyro-ppl", "numpy", "pandas", "pyarrow", "safetensors")
_LIKELIHOODS = {
    family.__name__: family
    for family in (
        NormalSigmoid,
        NormalIdentity,
        OrderedLogit,
        BernoulliLogit,
        NegativeBinomialLog,
    )
}
_TRANSFORMS = {family.__name__: family for family in (Affine, Log1p)}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Entries of "ratings" that a folder may lack, and what stands for them then.
_OPTIONAL = {"columns": None}  # how the caller's table named its columns
T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """What the header of a saved posterior says.

    Attributes
    ----------
    model : PMF or None
        None for a model whose code is not saved.
    latents : dict of str to str
        The kind of each latent site: one of `KINDS`.
    n_draws, n_chains, converged
        As in `Learned`.
    history : bool
        Whether the fit has a history.
    n_rows : dict of str to int, or None
        Number of rows of each table, see `n_rows`; None where an early version did not save it.
    scale, transform, recorded, columns, dtype
        As in `Ratings`. ``recorded`` is None where an early version did not save it.
    values : bool
        Whether the training ratings were saved, or only which pairs were rated.
    time : bool or None
        Whether the ratings have times; None where an early version did not save it.
    is_older : bool
        Whether it is of a format before 4, which has no checksums.
    """

    model: PMF | None
    latents: dict[str, str]
    n_draws: int | None
    n_chains: int | None
    converged: Converged
    history: bool
    n_rows: dict[str, int] | None
    scale: tuple[float, float]
    transform: Affine | Log1p
    recorded: Recorded | None
    columns: Columns
    dtype: torch.dtype
    values: bool
    time: bool | None
    is_older: bool = False


class OtherFormatError(ValueError):
    """Raised when a header is of a format that this version cannot read."""


def is_known(model: Any) -> bool:
    """Return whether a model is made of data alone: a `PMF` with a likelihood of this package."""
    return type(model) is PMF and type(model.likelihood) in _LIKELIHOODS.values()


def n_rows(learned: Learned) -> dict[str, int]:
    """Return the number of rows of each table of a fit, so that a missing row is told."""
    train, history = learned.ratings, learned.history
    return {
        "users": train.n_users,
        "items": train.n_items,
        "ratings": len(train),
        "history": 0 if history is None else len(history),
        "steps": len(learned.steps),
    }


def header_of(learned: Learned) -> str:
    """Return the header of a fit as text.

    Parameters
    ----------
    learned : Learned
        The fit.

    Raises
    ------
    TypeError, ValueError
        If an entry cannot be written as JSON.
    """
    train, model = learned.ratings, learned.model
    transform = {"family": type(train.transform).__name__} | _options(train.transform)
    header = {
        "format": FORMAT,
        "versions": {name: version(name) for name in _PACKAGES},
        "model": _model_as_data(model) if isinstance(model, PMF) and is_known(model) else None,
        "latents": {site: _kind(value) for site, value in learned.latents.items()},
        "n_draws": learned.n_draws,
        "n_chains": learned.n_chains,
        "converged": asdict(learned.converged),
        "history": learned.history is not None,
        "n_rows": n_rows(learned),
        "ratings": {
            "scale": train.scale,
            "transform": transform,
            "recorded": asdict(train.recorded),
            "columns": train.columns.of_file(),
            "dtype": str(train.dtype).removeprefix("torch."),
            "values": train.rating is not None,
            "time": train.time is not None,
        },
    }
    return json.dumps(header, indent=2, default=_plain, allow_nan=False) + "\n"


def read_header(text: bytes) -> Header:
    """Read a header.

    Parameters
    ----------
    text : bytes
        The JSON of `header_of`, or of an earlier version.

    Raises
    ------
    OtherFormatError
        If it is of a format that this version cannot read.
    ValueError, TypeError, KeyError
        If an entry is missing, not known, or of another type.
    """
    data = json.loads(text.decode(), object_pairs_hook=_without_repetitions)
    number = data["format"]
    if type(number) is not int or number not in READABLE:
        written_by = data.get("versions", {}).get("pyro-pmf") or data.get("version")
        is_newer = type(number) is int and number > FORMAT
        raise OtherFormatError(
            f"was saved by pyro-pmf {written_by} in format {number}; this version reads "
            f"{', '.join(map(str, READABLE))}: "
            + ("upgrade pyro-pmf." if is_newer else "fit and save it again.")
        )
    if is_older := number < _SIGNED:
        data = _upgraded(data)
    if number < 5:
        data = data | {"model": _without_ceiling(data["model"])}
    if number < FORMAT and data["model"] is not None:
        data = data | {"model": {"means": False} | data["model"]}
    _entries(
        data, "format versions model latents n_draws n_chains converged history n_rows ratings"
    )
    _require_text(*data["versions"], *data["versions"].values())
    ratings = _entries(
        _OPTIONAL | data["ratings"], "scale transform recorded dtype values time columns"
    )
    converged = _entries(data["converged"], "predictions parameters")
    rows = data["n_rows"]
    recorded = ratings["recorded"]
    low, high = (_number(end) for end in ratings["scale"])
    return Header(
        model=None if data["model"] is None else _read_model(data["model"]),
        latents={site: _one_of(KINDS, kind) for site, kind in data["latents"].items()},
        n_draws=_or_none(_positive, data["n_draws"]),
        n_chains=_or_none(_positive, data["n_chains"]),
        converged=Converged(**{name: _boolean(x) for name, x in converged.items()}),
        history=_boolean(data["history"]),
        n_rows=None if is_older else {name: _integer(n) for name, n in rows.items()},
        scale=(low, high),
        transform=_read_transform(ratings["transform"]),
        recorded=None if recorded is None and is_older else _read_recorded(recorded),
        columns=_read_columns(ratings["columns"]),
        dtype=_DTYPES[ratings["dtype"]],
        values=_boolean(ratings["values"]),
        time=None if is_older else _boolean(ratings["time"]),
        is_older=is_older,
    )


def _without_ceiling(model: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a model of format 4 or an earlier one, whose counts have no ceiling."""
    if model is None or model["likelihood"]["family"] != NegativeBinomialLog.__name__:
        return model
    return model | {"likelihood": {"ceiling": _INFINITE} | model["likelihood"]}


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a header of format 2 or 3 in format 4.

    Format 2 has no scales of factors, no history, and not how ratings were recorded.
    """
    model = data["model"]
    if model is not None:
        priors = {"tau": {"family": "Fixed", "value": 1.0}} | model["priors"]
        likelihood = model["likelihood"]
        if likelihood["family"] in ("NormalSigmoid", "NormalIdentity"):
            likelihood = {"rounding": None} | likelihood
        model = model | {"priors": priors, "likelihood": likelihood}
    both = data["converged"]
    return {
        "format": data["format"],
        "versions": {"pyro-pmf": data["version"]},
        "model": model,
        "latents": data["latents"],
        "n_draws": data["n_draws"],
        "n_chains": data["n_chains"],
        "converged": data.get("converged_for", {"predictions": both, "parameters": both}),
        "history": data.get("history", False),
        "n_rows": None,
        "ratings": {
            "scale": data["scale"],
            "transform": data["transform"],
            "recorded": data.get("recorded"),
            "dtype": data["dtype"],
            "values": True,
            "time": None,
        },
    }


def _model_as_data(model: PMF) -> dict[str, Any]:
    return {
        "n_factors": model.n_factors,
        "users": model.users,
        "items": model.items,
        "biases": model.biases,
        "divisor": model.divisor,
        "means": model.means,
        "noise": model.noise,
        "priors": model.priors.to_dict(),
        "likelihood": {"family": type(model.likelihood).__name__}
        | {
            name: _INFINITE if value == math.inf else value
            for name, value in _options(model.likelihood).items()
        },
    }


def _read_model(data: dict[str, Any]) -> PMF:
    _entries(data, "n_factors users items biases divisor means noise priors likelihood")
    likelihood, priors = dict(data["likelihood"]), data["priors"]
    family = _LIKELIHOODS[likelihood.pop("family")]
    _entries(likelihood, *(f.name for f in fields(family)))
    likelihood = {name: _or_none(_number_or_infinity, x) for name, x in likelihood.items()}
    _entries(priors, *(f.name for f in fields(Priors)))
    for prior in priors.values():
        for name, value in prior.items():
            _ = name == "family" or _number(value)
    return PMF(**data | {"likelihood": family(**likelihood), "priors": Priors.from_dict(priors)})


def _read_transform(data: dict[str, Any]) -> Affine | Log1p:
    options = dict(data)
    if options.pop("family") == "Affine":
        _entries(options, "origin width bounds")
        bounds = options.pop("bounds")
        origin, width = (_number(options[name]) for name in ("origin", "width"))
        if bounds is None:
            return Affine(origin, width)
        low, high = (_number(end) for end in bounds)
        return Affine(origin, width, (low, high))
    _one_of(_TRANSFORMS, data["family"])
    _entries(options, "log_mean log_sd")
    return Log1p(**{name: _number(value) for name, value in options.items()})


def _read_columns(data: dict[str, Any] | None) -> Columns:
    """Return the names of columns; a header may lack them, and those that are no text or int."""
    columns = Columns(**(data or {}))
    names = asdict(columns).values()
    if None in (columns.user, columns.item) or {type(x) for x in names} - {str, int, type(None)}:
        raise ValueError(f"its columns have the names {data}")
    columns.require_distinct()
    return columns


def _read_recorded(data: dict[str, Any]) -> Recorded:
    _entries(data, "gap scale_given")
    return Recorded(_or_none(_number, data["gap"]), _boolean(data["scale_given"]))


def _options(frozen: Any) -> dict[str, Any]:
    """Return the constructor arguments of a dataclass instance, by name."""
    return {f.name: getattr(frozen, f.name) for f in fields(frozen) if f.init}


def _kind(value: object) -> str:
    name = type(value).__name__
    return name if name in KINDS else "Tensor"


def _plain(x: Any) -> Any:
    """Return a number of NumPy, or another integer, as one that JSON can hold."""
    return x.item() if isinstance(x, np.generic) else operator.index(x)


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an entry of its header occurs twice")
    return entries


def _entries(data: Any, *names: str) -> dict[str, Any]:
    """Return data if it is a dict with these entries and no others; names may share a string."""
    wanted = {name for together in names for name in together.split()}
    if not isinstance(data, dict) or data.keys() != wanted:
        found = sorted(data) if isinstance(data, dict) else repr(data)
        raise ValueError(f"its header has {found} in the place of {sorted(wanted)}")
    return data


def _number(x: Any) -> float:
    if type(x) not in (int, float) or not math.isfinite(x):
        raise ValueError(f"its header has {x!r} in the place of a finite number")
    return x


def _number_or_infinity(x: Any) -> float:
    return math.inf if x == _INFINITE else _number(x)


def _integer(x: Any, least: int = 0) -> int:
    if type(x) is not int or x < least:
        raise ValueError(f"its header has {x!r} in the place of a count")
    return x


def _positive(x: Any) -> int:
    return _integer(x, least=1)


def _require_text(*texts: Any) -> None:
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"its header has {texts} in the place of a package and its version")


def _boolean(x: Any) -> bool:
    if type(x) is not bool:
        raise ValueError(f"its header has {x!r} in the place of true or false")
    return x


def _one_of(known: Any, x: Any) -> str:
    if not isinstance(x, str) or x not in known:
        raise ValueError(f"its header has {x!r} in the place of one of {', '.join(known)}")
    return x


def _or_none(read: Callable[[Any], T], x: Any) -> T | None:
    return None if x is None else read(x)
