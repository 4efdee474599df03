"""Chains that several processes share, against those of one process.

`gibbs/test_shared_sweeps.py` tests what a sweep does.
"""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import shared_chains as shared
import torch
from launching import log_of
from scipy.stats import norm

from pyro_pmf import FitError, load
from pyro_pmf.inference.mcmc.gibbs.kernel import GibbsKernel, seed_of_own
from pyro_pmf.model.identified import quantities
from pyro_pmf.moments.chains import ess_mean, mcse_mean
from pyro_pmf.reducer import Reducer

_FEWEST = 30  # effective draws of a quantity, so that its error is known


def told(folder, part):
    """Return what each process told, after all have ended well."""
    codes, _ = shared.launch(folder, part)
    assert codes == [0, 0], log_of(folder, part)
    return [json.loads((folder / f"{part}-{rank}.json").read_text()) for rank in range(2)]


def moments(posterior):
    """Return draws of what ratings identify, and of the squares about their means."""
    found = quantities(posterior.model, posterior.ratings, posterior.latents, n_each=40)
    draws = found.to_numpy(float)
    return np.hstack([draws, posterior.steps[["log_likelihood"]].to_numpy()])


@pytest.mark.long
@pytest.mark.statistical
def test_two_processes_draw_from_the_posterior_that_one_draws_from(tmp_path):
    """Means and squares of scores, effects and parameters, in Monte Carlo standard errors.

    All together raise one false alarm in 1,000 random seeds, and the seeds are fixed. A mean that
    is off by half a standard deviation is found in half of all cases, with 100 effective draws.
    Each process has all draws, to the last bit.
    """
    ours = told(tmp_path, "moments")
    assert ours[0] == ours[1]
    z = []
    for name in shared.MODELS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = shared.drawn(name, 400)
        both = load(tmp_path / name)
        assert shared.digest(both) == ours[0][name]
        assert both.ratings.n_users == shared.RATINGS[name].n_users
        x, y = moments(one), moments(both)
        middle = (x.mean(0) + y.mean(0)) / 2
        for power in (1, 2):
            a, b = (((draws - middle) ** power)[None] for draws in (x, y))
            known = np.minimum(ess_mean(a), ess_mean(b)) > _FEWEST
            assert known.mean() > 0.5
            error = np.hypot(mcse_mean(a), mcse_mean(b))
            z += ((a.mean(1) - b.mean(1))[0] / error)[known].tolist()
    assert np.abs(z).max() < norm.isf(5e-4 / len(z))


@pytest.mark.slow
def test_parts_of_users_are_drawn_saved_and_joined(tmp_path):
    found = told(tmp_path, "parts")
    whole = load(tmp_path / "parts")
    assert len(whole.ratings) == shared.N_RATINGS
    assert whole.n_draws == 32
    for rank, part in enumerate(found):
        assert part["same"]
        rows = pd.DataFrame(part["rows"])
        table = whole.predict(rows[["user", "item"]])
        for column in ("mean", "sd", "lower"):
            np.testing.assert_allclose(table[column], rows[column], rtol=1e-5)
        loaded = load(tmp_path / "parts" / f"part-0000{rank}-of-00002")
        assert loaded.ratings.n_users == len(rows["user"].unique())
        assert "all ratings only" in part["track"]
        assert all("one process" in part[name] for name in ("nuts", "jobs"))
        assert "fewer processes" in part["one user"]


@pytest.mark.long
def test_a_killed_process_ends_the_others_and_chains_resume_to_the_same_numbers(tmp_path):
    codes, seconds = shared.launch(tmp_path, "killed")
    assert codes[1] == 9
    assert codes[0] not in (0, 9), log_of(tmp_path, "killed")
    assert "Another process of this fit has ended" in (tmp_path / "error").read_text()
    assert seconds < 60
    shutil.copytree(tmp_path / "killed", tmp_path / "copy")
    first, second = told(tmp_path, "resumed")
    assert first == second
    assert first["resumed"] == first["whole"]
    np.testing.assert_allclose(first["tracked"], first["predicted"], rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = shared.some(method=shared.TRACKING, checkpoint=tmp_path / "copy", resume=True)
    steps = alone.steps["log_likelihood"].to_numpy()
    assert len(steps) == 32  # one process goes on with the chain that two began
    assert np.array_equal(steps[:16], np.load(tmp_path / "whole.npy")[:16])
    assert not np.array_equal(steps[16:], np.load(tmp_path / "whole.npy")[16:])


def test_no_two_processes_draw_from_one_stream():
    seeds = {seed_of_own(seed, rank, 3, n) for seed in (0, 1) for rank in range(3) for n in (0, 9)}
    assert len(seeds) == 12


class Disagreeing(Reducer):
    """Another process has other items."""

    def largest(self, x):
        return torch.maximum(x, x.roll(1))


def test_processes_that_do_not_agree_end():
    """Such as on processors that round in other ways."""
    ratings = shared.RATINGS["levels"].to("cpu", torch.float64)
    kernel = GibbsKernel(shared.MODELS["levels"], ratings, None, 0, n_warmup=30)
    kernel._require_agreement(Reducer())
    with pytest.raises(FitError, match="no longer agree"):
        kernel._require_agreement(Disagreeing())
