"""Fits that processes share: what each of them runs, see `launching`.

The first one writes what it found.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from functools import cache, partial
from pathlib import Path
from unittest import mock

import launching
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_pmf import (
    MAP,
    NUTS,
    PMF,
    VI,
    BernoulliLogit,
    Checkpoint,
    FitError,
    Fixed,
    Gibbs,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.data import blocks
from pyro_pmf.datasets import simulate
from pyro_pmf.reducer import is_first, reducer_of_world

STRONG = Priors(sigma=Fixed(0.1), tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
# The spacing of ratings would be found by all of them, or by those of the first process.
EXACTLY = NormalSigmoid(rounding=0.0)
HIERARCHICAL = PMF(
    2, "hierarchical", "hierarchical", True, "sqrt_count", "shared", STRONG, EXACTLY
)
DRAWN = simulate(HIERARCHICAL, 41, 23, 500, seed=2)[0].to_frame()
FRAME = DRAWN.assign(rating=DRAWN["rating"].clip(0, 1))
RATINGS = Ratings.from_frame(FRAME, scale=(0.0, 1.0))
LEVELS = Ratings.from_frame(
    FRAME.assign(rating=(4 * FRAME["rating"]).round() + 1), scale=(1.0, 5.0)
)
YES = Ratings.from_frame(
    FRAME.assign(rating=1.0 * (FRAME["rating"] > FRAME["rating"].median())), scale=(0.0, 1.0)
)
EXACT = Ratings.from_frame(FRAME, transform="standardize")
MORE = FRAME[["user", "item"]].assign(item=FRAME["item"].to_numpy()[::-1]).drop_duplicates()
HELD = VI(learn_scales=None, max_steps=16)
# Model, ratings, method and other options.
FITS = {
    "vi": (PMF(2), RATINGS, HELD, {}),
    "both sides": (HIERARCHICAL, RATINGS, HELD, {}),
    "learnt": (PMF(1), RATINGS, VI(max_steps=12), {}),
    "elbo": (PMF(2, noise="user"), RATINGS, VI(learn_scales="elbo", max_steps=16), {}),
    "map": (
        PMF(2, "independent", "hierarchical"),
        RATINGS,
        MAP(learn_scales=None, max_steps=26),
        {},
    ),
    "levels": (PMF(2, likelihood=OrderedLogit(5)), LEVELS, HELD, {}),
    "yes or no": (PMF(2, likelihood=BernoulliLogit()), YES, HELD, {}),
    "exact": (PMF(2, noise="user_and_item", likelihood=NormalIdentity()), EXACT, HELD, {}),
    "biases": (PMF(0), RATINGS, VI(max_steps=16), {}),
    "history": (HIERARCHICAL, RATINGS, HELD, {"history": MORE}),
    "begun": (PMF(2), RATINGS, HELD, {}),
}
REFUSED = {
    "gibbs": (PMF(1), Gibbs(n_jobs=2)),
    "nuts": (PMF(1), NUTS()),
    "batches": (PMF(1), VI(batches=2)),
    "guide": (PMF(1), VI(guide=AutoNormal)),
}
# In several processes, these are summed over blocks of users as well.
IN_BLOCKS = {"both sides", "map", "levels", "exact", "history"}
KILLED = PMF(2), RATINGS, VI(learn_scales=None, max_steps=46)


@cache
def fitted(name: str) -> Posterior:
    """Fit one of `FITS`, in float64, where sums in another order are almost the same."""
    model, ratings, method, more = FITS[name]
    start = fitted("vi") if name == "begun" else None
    options = {"dtype": torch.float64, "progress": False, "start": start}
    in_blocks = name in IN_BLOCKS and reducer_of_world().size > 1
    with mock.patch.object(blocks, "_IN_A_BLOCK", 60 if in_blocks else 1 << 20):
        return fit(model, ratings, method, **more, **options)


def told(posterior: Posterior) -> dict:
    """Return predictions and the course of a fit."""
    table = posterior.predict(FRAME[["user", "item"]])
    return {
        "mean": table["mean"].tolist(),
        "sd": table["sd"].tolist(),
        "elbo": posterior.steps["elbo"].tolist(),
        "ratings": len(posterior.ratings),
    }


def run_fits(folder: Path) -> None:
    """Run all fits; save one."""
    found = {name: told(fitted(name)) for name in FITS}
    fitted("vi").save(folder / "posterior")
    if is_first():
        (folder / "fits.json").write_text(json.dumps(found))


def run_parts(folder: Path) -> None:
    """Fit the ratings of own users: consecutive ones, and every second, of which one has files."""
    rank, half = int(os.environ["RANK"]), RATINGS.n_users // 2
    user = FRAME["user"]
    found = {}
    for name, is_own in {"halves": (user >= half) == rank, "seconds": user % 2 == rank}.items():
        own = Ratings.from_frame(FRAME[is_own], scale=RATINGS.scale)
        if name == "seconds" and rank:
            FRAME[is_own].sort_values("user").to_parquet(folder / "own.parquet")
            own = Ratings.read_parts([folder / "own.parquet"], folder, scale=RATINGS.scale)
        options = {"dtype": torch.float64, "progress": False}
        posterior = fit(HIERARCHICAL, own, HELD, **options)
        posterior.save(folder / name)
        table = posterior.predict(FRAME.loc[is_own, ["user", "item"]])
        found[name] = {"elbo": posterior.steps["elbo"].tolist(), "rows": table.to_dict("list")}
    try:
        fit(
            HIERARCHICAL,
            Ratings.from_frame(FRAME[user <= half + rank], scale=(0, 1)),
            HELD,
            progress=False,
        )
    except PMFError as error:
        found["overlap"] = str(error)
    (folder / f"parts-{rank}.json").write_text(json.dumps(found))


def run_refusals(folder: Path) -> None:
    """Ask for what is refused; each process writes what it was told."""
    said = {}
    for name, (model, method) in REFUSED.items():
        try:
            fit(model, RATINGS, method, progress=False)
        except FitError as error:
            said[name] = str(error)
    (folder / "a file").touch()
    try:
        fit(PMF(1), RATINGS, HELD, checkpoint=folder / "a file", progress=False)
    except PMFError as error:
        said["checkpoint"] = str(error)
    (folder / f"refused-{os.environ['RANK']}.json").write_text(json.dumps(said))


def run_killed(folder: Path) -> None:
    """Fit; the last process ends without a word in the middle, unless it has done so before."""
    model, ratings, method = KILLED
    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    dies = last and not (folder / "died").exists()

    def callback(progress) -> None:
        if dies and progress.step == 12:
            (folder / "died").touch()
            os._exit(9)

    checkpoint = Checkpoint(folder / "checkpoint", every=0)
    options = {"checkpoint": checkpoint, "resume": True, "progress": False}
    try:
        posterior = fit(model, ratings, method, callback=callback, **options)
    except FitError as error:
        (folder / f"error-{os.environ['RANK']}").write_text(str(error))
        raise
    if is_first():
        (folder / "resumed.json").write_text(json.dumps(told(posterior)))


def run_whole(folder: Path) -> None:
    """Fit the same without a break."""
    model, ratings, method = KILLED
    posterior = fit(model, ratings, method, progress=False)
    if is_first():
        (folder / "whole.json").write_text(json.dumps(told(posterior)))


def run_all(folder: Path) -> None:
    """Resume what was killed, then do everything else, in processes that start once."""
    for part in (run_killed, run_whole, run_fits, run_parts, run_refusals):
        part(folder)


PARTS = {"killed": run_killed, "all": run_all}


launch = partial(launching.launch, __file__)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # fits this short have not converged
    PARTS[sys.argv[2]](Path(sys.argv[1]))
