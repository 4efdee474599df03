"""Fits in a process that is killed, with writes so slow that most kills hit one."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_pmf import MAP, NUTS, PMF, VI, Checkpoint, Fixed, Gibbs, OrderedLogit, Priors, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference import packing

torch.set_num_threads(1)  # a process that has threads cannot be forked
WIDE = Priors(sigma=Fixed(0.1), tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
STRONG = Priors(sigma=Fixed(0.05), tau=Fixed(1.0), sigma_U=Fixed(1.5), sigma_V=Fixed(1.5))
ABOUT_BIASES = Priors(sigma=Fixed(0.1), sigma_b=Fixed(0.5), sigma_c=Fixed(0.5))
HIERARCHICAL = PMF(2, "hierarchical", "hierarchical", priors=WIDE)
BIASES = PMF(0, noise="shared", priors=ABOUT_BIASES)
RATINGS = simulate(PMF(2, noise="shared", priors=STRONG), 12, 10, 100, seed=2, scale=(1.0, 5.0))[0]
STARS = type(RATINGS).from_frame(
    RATINGS.to_frame().assign(rating=RATINGS.rating.round().clip(1, 5)), scale=(1.0, 5.0)
)
TRACKED = RATINGS.to_frame()[["user", "item"]].head(7)
# Model, ratings and method of quick fits.
FITS = {
    "lbfgs": (PMF(2, noise="shared"), RATINGS, VI(learn_scales=None, max_steps=50)),
    "held-out": (PMF(1), RATINGS, VI(max_steps=24)),
    "elbo": (PMF(1), RATINGS, VI(learn_scales="elbo", max_steps=46)),
    "batches": (HIERARCHICAL, RATINGS, VI(batches=3, max_steps=30, learn_scales=None)),
    "sampled": (BIASES, RATINGS, VI(guide=AutoNormal, max_steps=30, n_draws=5)),
    "map": (BIASES, RATINGS, MAP(max_steps=52, learn_scales=None)),
    "map-held-out": (PMF(1), RATINGS, MAP(max_steps=32)),
    "gibbs": (
        PMF(2, "hierarchical"),
        RATINGS,
        Gibbs(n_draws=12, n_warmup=8, track=TRACKED, thin=1),
    ),
    "gibbs-levels": (
        PMF(1, likelihood=OrderedLogit(5)),
        STARS,
        Gibbs(n_draws=5, n_warmup=25, thin=2),
    ),
    "nuts": (PMF(1, noise="shared"), RATINGS, NUTS(n_draws=6, n_warmup=6, n_chains=2)),
}


def run(name: str, **options):
    """Fit; say nothing of factors that vanish in so few ratings, and of a sampled ELBO."""
    model, ratings, method = FITS[name]
    with warnings.catch_warnings():
        for message in ("The factors have shrunk", "Falling back to Trace_ELBO", "This fit pred"):
            warnings.filterwarnings("ignore", message)
        return fit(model, ratings, method, progress=False, **options)


def digest(posterior) -> str:
    """Return a checksum of everything that a fit has learnt, but its seconds."""
    found = hashlib.sha256(repr((posterior.converged, posterior.n_draws)).encode())
    for site, value in posterior.latents.items():
        parts = [value] if isinstance(value, torch.Tensor) else vars(value).values()
        found.update(site.encode())
        for part in parts:
            if isinstance(part, torch.Tensor):
                found.update(np.ascontiguousarray(part.numpy()).tobytes())
    found.update(posterior.steps.drop(columns="seconds").to_csv().encode())
    if posterior.tracked is not None:
        found.update(posterior.tracked.to_csv().encode())
    return found.hexdigest()


class Slow:
    """A file whose writes take a few milliseconds, and are cut into pieces."""

    def __init__(self, file) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        for piece in np.array_split(np.frombuffer(data, np.uint8), 4):
            self._file.write(piece.tobytes())
            self._file.flush()
            time.sleep(0.003)

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def slowly(function: Callable) -> Callable:
    """Return a function that waits before and after its work."""

    def slow(*args):
        time.sleep(0.001)
        function(*args)
        time.sleep(0.001)

    return slow


def resumed_fit(name: str, folder: str) -> None:
    """Fit from the checkpoint in a folder on, and write the digest of the result beside it."""
    packing.open = lambda *args: Slow(open(*args))  # noqa: SIM115
    os.replace, os.fsync = slowly(os.replace), slowly(os.fsync)
    found = digest(run(name, checkpoint=Checkpoint(folder, every=0), resume=True))
    packing.write_packed(Path(folder, "digest"), found)


def processes() -> multiprocessing.context.BaseContext:
    """Return a source of processes that have loaded the package, but run nothing yet."""
    source = multiprocessing.get_context("forkserver")
    source.set_forkserver_preload(["killed"])
    # Before Python 3.13, the process that loads them looks only where the environment says.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        ensure_running()
    return source


class Killed:
    """Kills of a fit.

    Attributes
    ----------
    n_kills, n_in_a_write, n_ends : int
        Number of kills, of those that cut a write in two, and of fits that came to their end.
    """

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.folder = name, folder
        self.n_kills = self.n_in_a_write = self.n_ends = 0
        self._random, self._source = np.random.default_rng(seed), processes()

    def attempt(self, longest: float | None) -> bool:
        """Run the fit for a random time, at most so many seconds; return whether it has ended."""
        process = self._source.Process(target=resumed_fit, args=(self.name, str(self.folder)))
        process.start()
        process.join(None if longest is None else self._random.uniform(0, longest))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == 0:
            self.n_ends += 1
            return True
        assert process.exitcode == -9, "it failed by itself"
        self.n_kills += 1
        self.n_in_a_write += any(self.folder.glob("*.unfinished"))
        return False

    def end(self) -> str:
        """Return the digest of the fit that has ended."""
        return packing.read_packed(self.folder / "digest")[0]
