"""Chains that processes share: what each of them runs, see `launching`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import launching
import numpy as np
import torch

from pyro_pmf import (
    NUTS,
    PMF,
    Checkpoint,
    FitError,
    Gibbs,
    HalfNormal,
    LogNormal,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import simulate

# Priors that say much, so that scales mix in few sweeps.
NARROW = {f"sigma_{site}": LogNormal(0.5, 0.2) for site in "UVWZbcst"}
SOME = Priors(tau=LogNormal(1.0, 0.2), sigma=LogNormal(0.4, 0.2), **NARROW)
COUNTS = Priors(mu=Normal(1.0, 0.5), sigma=HalfNormal(0.5), tau=LogNormal(1.0, 0.2), **NARROW)
BOTH = {"users": "hierarchical", "items": "hierarchical"}
MODELS = {
    "levels": PMF(2, likelihood=OrderedLogit(5), priors=SOME, **BOTH),
    "exact": PMF(2, likelihood=NormalIdentity(0.0), noise="shared", priors=SOME),
    "counts": PMF(1, likelihood=NegativeBinomialLog(), noise="shared", priors=COUNTS),
}
N_USERS, N_ITEMS, N_RATINGS = 23, 14, 180
RATINGS = {
    name: simulate(model, N_USERS, N_ITEMS, N_RATINGS, seed=4)[0] for name, model in MODELS.items()
}
TRACKED = RATINGS["levels"].to_frame()[["user", "item"]].iloc[::9]
FEW = Gibbs(n_draws=16, n_warmup=8, n_chains=2, thin=1)
TRACKING = replace(FEW, track=TRACKED)
KILLED_AT = 24 + 11  # of 24 steps a chain: in the second one, after some draws


def drawn(name: str, n_draws: int) -> Posterior:
    """Draw from the posterior of one of `MODELS`, in float64."""
    method = Gibbs(n_draws=n_draws, n_warmup=30, n_chains=1, thin=1)
    return fit(MODELS[name], RATINGS[name], method, dtype=torch.float64, progress=False)


def some(model: str = "levels", ratings: Ratings | None = None, **options) -> Posterior:
    """Take a few draws."""
    method = options.pop("method", FEW)
    given = RATINGS[model] if ratings is None else ratings
    return fit(MODELS[model], given, method, progress=False, **options)


def digest(posterior: Posterior) -> str:
    """Return a checksum of all draws, and of what was tracked."""
    found = hashlib.sha256()
    if posterior.tracked is not None:
        found.update(posterior.tracked[["mean", "sd"]].to_numpy().tobytes())
    for _, value in sorted(posterior.latents.items()):
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def tell(folder: Path, part: str, found: dict) -> None:
    """Write what this process found."""
    (folder / f"{part}-{os.environ['RANK']}.json").write_text(json.dumps(found))


def run_moments(folder: Path) -> None:
    """Draw from each posterior; each process tells a checksum of its draws."""
    found = {}
    for name in MODELS:
        posterior = drawn(name, 150)
        found[name] = digest(posterior)
        posterior.save(folder / name)
    tell(folder, "moments", found)


def run_parts(folder: Path) -> None:
    """Draw for own users, every second one, with a checkpoint; ask for what is refused."""
    rank = int(os.environ["RANK"])
    frame = RATINGS["levels"].to_frame()
    is_own = frame["user"] % 2 == rank
    own = Ratings.from_frame(frame[is_own], scale=RATINGS["levels"].scale)
    kept = {"checkpoint": folder / "checkpoint", "resume": True}
    posterior, again = (some(ratings=own, **kept) for _ in range(2))
    posterior.save(folder / "parts")
    found = {"rows": posterior.predict(frame.loc[is_own, ["user", "item"]]).to_dict("list")}
    found["same"] = digest(posterior) == digest(again)
    one = frame[frame["user"] == frame["user"].iloc[0]]
    refused = {
        "track": {"ratings": own, "method": Gibbs(n_draws=4, track=frame[is_own], thin=1)},
        "nuts": {"method": NUTS()},
        "jobs": {"method": Gibbs(n_jobs=2)},
        "one user": {"ratings": Ratings.from_frame(one, scale=RATINGS["levels"].scale)},
    }
    for name, options in refused.items():
        try:
            some(**options)
        except PMFError as error:
            found[name] = str(error)
    tell(folder, "parts", found)


def run_killed(folder: Path) -> None:
    """Draw; the last process ends without a word in the middle."""

    def callback(progress) -> None:
        torch.randn(3)  # of the caller, which changes no draw
        if os.environ["RANK"] == "1" and progress.step == KILLED_AT:
            os._exit(9)

    try:
        some(method=TRACKING, callback=callback, checkpoint=Checkpoint(folder / "killed", every=0))
    except FitError as error:
        (folder / "error").write_text(str(error))
        raise


def run_resumed(folder: Path) -> None:
    """Go on, and draw the same without a break."""
    resumed = some(method=TRACKING, checkpoint=folder / "killed", resume=True)
    whole = some(method=TRACKING)
    found = {"resumed": digest(resumed), "whole": digest(whole)}
    found["tracked"] = whole.tracked["mean"].tolist()
    found["predicted"] = whole.predict(TRACKED)["mean"].tolist()
    if os.environ["RANK"] == "0":
        np.save(folder / "whole.npy", whole.steps["log_likelihood"].to_numpy())
    tell(folder, "resumed", found)


PARTS = {
    "moments": run_moments,
    "parts": run_parts,
    "killed": run_killed,
    "resumed": run_resumed,
}
launch = partial(launching.launch, __file__)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # chains this short have not converged
    PARTS[sys.argv[2]](Path(sys.argv[1]))
