"""Save and load a posterior: a folder of JSON, safetensors and Parquet, no pickle."""

from __future__ import annotations

import json
import operator
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyro_pmf.data.columns import Columns
from pyro_pmf.data.levels import Recorded
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.transforms import Affine, Log1p
from pyro_pmf.errors import StorageError
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
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Value

_FORMAT = 3
_OLDER = 2  # also read: without tau, history and how ratings were recorded
_FILES = (
    "posterior.json",
    "latents.safetensors",
    "users.parquet",
    "items.parquet",
    "ratings.parquet",
    "steps.parquet",
)
_HISTORY = "history.parquet"  # only of a fit with a history
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


def save(learned: Learned, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a fit to a folder; see `Posterior.save`.

    Files are written to a temporary folder beside the target, which is renamed when complete.

    Parameters
    ----------
    learned : Learned
        The fit to save.
    path : path-like
        The folder to make.
    overwrite : bool
        Whether to replace a posterior that is saved there.

    Raises
    ------
    StorageError
        If the path exists and may not be replaced, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not (overwrite and (target / _FILES[0]).is_file()):
        is_posterior = (target / _FILES[0]).is_file()
        raise StorageError(
            f"{target} exists: choose another name, or give overwrite=True."
            if is_posterior
            else f"{target} exists and is not a saved posterior: choose another name."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise StorageError(f"Cannot write to {target.parent}: {error}") from error
    replaced = unfinished.with_name(unfinished.name + ".replaced")
    try:
        _write(learned, unfinished)
        unfinished.chmod(0o777 & ~_umask())
        if target.exists():
            target.rename(replaced)
        unfinished.rename(target)
    except (OSError, TypeError) as error:
        if replaced.exists():
            replaced.rename(target)
        raise StorageError(f"Cannot save to {target}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def read(path: str | os.PathLike[str], model: Callable[..., Any] | None) -> dict[str, Any]:
    """Read a saved fit from a folder; see `posterior.load`.

    Parameters
    ----------
    path : path-like
        The folder that `save` wrote.
    model : callable, or None
        The Pyro model that was fitted; None to read a `PMF` from the folder.

    Returns
    -------
    dict of str to Any
        The fields of `Learned`, by name.

    Raises
    ------
    StorageError
        If the folder is not a saved posterior, is damaged, has another format, or needs
        ``model``.
    """
    folder = Path(path)
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise StorageError(f"{folder} is not a saved posterior: it lacks {', '.join(missing)}.")
    try:
        header = json.loads((folder / "posterior.json").read_text(encoding="utf-8"))
        if header["format"] not in (_FORMAT, _OLDER):
            remedy = "upgrade pyro-pmf" if header["format"] > _FORMAT else "fit and save it again"
            raise StorageError(
                f"{folder} was saved by pyro-pmf {header['version']} in format "
                f"{header['format']}; this version reads {_FORMAT}: {remedy}."
            )
        if header["model"] is None and model is None:
            raise StorageError(
                f"{folder} holds the fit of a model of your own, whose code is not saved: give "
                "load(path, model=...)."
            )
        tensors = load_file(folder / "latents.safetensors")
        ratings = _read_ratings(folder, header)
        return {
            "model": model or _read_model(header["model"]),
            "ratings": ratings,
            "history": _read_history(folder, ratings) if header.get("history") else None,
            "latents": {
                site: _read_value(site, kind, tensors) for site, kind in header["latents"].items()
            },
            "n_draws": header["n_draws"],
            "n_chains": header["n_chains"],
            "steps": pd.read_parquet(folder / "steps.parquet"),
            "converged": _read_converged(header),
        }
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"{folder} is damaged, so fit and save it again: {error}") from error


def _write(learned: Learned, folder: Path) -> None:
    train = learned.ratings
    header = {
        "format": _FORMAT,
        "version": version("pyro-pmf"),
        "model": _model_as_data(learned.model),
        "latents": {site: type(value).__name__ for site, value in learned.latents.items()},
        "n_draws": learned.n_draws,
        "n_chains": learned.n_chains,
        "history": learned.history is not None,
        "converged": bool(learned.converged),  # all that older versions read
        "converged_for": asdict(learned.converged),
        "scale": train.scale,
        "recorded": asdict(train.recorded),
        "columns": train.columns.of_file(),
        "transform": {"family": type(train.transform).__name__} | _options(train.transform),
        "dtype": str(train.dtype).removeprefix("torch."),
    }
    text = json.dumps(header, indent=2, default=operator.index)  # for NumPy's integers
    (folder / "posterior.json").write_text(text, encoding="utf-8")
    tensors = {
        key: value.contiguous()
        for site, latent in learned.latents.items()
        for key, value in _value_as_tensors(site, latent).items()
    }
    save_file(tensors, folder / "latents.safetensors")
    for name, ids in (("users", train.user_ids), ("items", train.item_ids)):
        pd.DataFrame({"id": ids}).to_parquet(folder / f"{name}.parquet", index=False)
    columns: dict[str, Any] = {"user": train.user.numpy(), "item": train.item.numpy()}
    columns["rating"] = train.rating
    if train.time is not None:
        columns["time"] = train.time
    pd.DataFrame(columns).to_parquet(folder / "ratings.parquet", index=False)
    learned.steps.to_parquet(folder / "steps.parquet", index=False)
    if learned.history is not None:
        pairs = {"user": learned.history.user.numpy(), "item": learned.history.item.numpy()}
        pd.DataFrame(pairs).to_parquet(folder / _HISTORY, index=False)


def _read_history(folder: Path, ratings: Ratings) -> Pairs:
    pairs = pd.read_parquet(folder / _HISTORY)
    user, item = (torch.tensor(pairs[side].to_numpy()) for side in ("user", "item"))
    return Pairs(user, item, ratings.n_users, ratings.n_items, dtype=ratings.dtype)


def _read_converged(header: dict[str, Any]) -> Converged:
    both = header["converged"]
    return Converged(**header.get("converged_for", {"predictions": both, "parameters": both}))


def _read_ratings(folder: Path, header: dict[str, Any]) -> Ratings:
    options = dict(header["transform"])
    if options.get("bounds") is not None:
        options["bounds"] = tuple(options["bounds"])
    transform = _TRANSFORMS[options.pop("family")](**options)
    rows = pd.read_parquet(folder / "ratings.parquet")
    users, items = (
        pd.Index(pd.read_parquet(folder / f"{name}.parquet")["id"].tolist())
        for name in ("users", "items")
    )
    return Ratings(
        torch.tensor(rows["user"].to_numpy()),
        torch.tensor(rows["item"].to_numpy()),
        users,
        items,
        tuple(header["scale"]),
        rows["rating"].to_numpy(copy=True),
        rows.get("time"),
        getattr(torch, header["dtype"]),
        transform,
        Recorded(**header["recorded"]) if "recorded" in header else None,
        Columns(**header.get("columns", {})),
    )


def _options(frozen: Any) -> dict[str, Any]:
    """Return the constructor arguments of a dataclass instance, by name."""
    return {f.name: getattr(frozen, f.name) for f in fields(frozen) if f.init}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _model_as_data(model: Callable[..., Any]) -> dict[str, Any] | None:
    if type(model) is not PMF or type(model.likelihood) not in _LIKELIHOODS.values():
        return None
    return {
        "n_factors": model.n_factors,
        "users": model.users,
        "items": model.items,
        "biases": model.biases,
        "divisor": model.divisor,
        "noise": model.noise,
        "priors": model.priors.to_dict(),
        "likelihood": {"family": type(model.likelihood).__name__} | _options(model.likelihood),
    }


def _read_model(data: dict[str, Any]) -> PMF:
    options = dict(data["likelihood"])
    likelihood = _LIKELIHOODS[options.pop("family")](**options)
    priors = Priors.from_dict(data["priors"])
    return PMF(**data | {"likelihood": likelihood, "priors": priors})


def _value_as_tensors(site: str, value: Value) -> dict[str, Tensor]:
    if isinstance(value, Gaussian):
        return {f"{site}.mean": value.mean, f"{site}.var": value.var}
    if isinstance(value, LogGaussian):
        return {f"{site}.log_mean": value.log_mean, f"{site}.log_var": value.log_var}
    assert isinstance(value, Tensor)
    return {site: value}


def _read_value(site: str, kind: str, tensors: dict[str, Tensor]) -> Value:
    sites = frozenset({site})
    if kind == "Gaussian":
        return Gaussian(tensors[f"{site}.mean"], tensors[f"{site}.var"], sites)
    if kind == "LogGaussian":
        return LogGaussian(tensors[f"{site}.log_mean"], tensors[f"{site}.log_var"], sites)
    return tensors[site]
