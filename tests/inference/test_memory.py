"""The memory that a fit needs is told before it starts."""

import re
from types import SimpleNamespace

import psutil
import pytest
import torch

from pyro_pmf import MAP, NUTS, PMF, VI, FitError, Gibbs, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.memory import draws_memory, fit_memory, sweep_memory


@pytest.fixture(scope="module")
def ratings():
    return simulate(PMF(2), 30, 20, 400)[0]


def test_a_fit_that_does_not_fit_is_refused_before_a_step(ratings, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    steps = []
    with pytest.raises(
        FitError, match=r"needs about 0\.0 GB, and 0\.0 GB are free on cpu"
    ) as error:
        fit(PMF(2), ratings, progress=False, callback=steps.append)
    assert re.search("batches.*n_factors.*float32", str(error.value))
    assert not steps


def test_a_fit_has_the_memory_that_reading_took(ratings, monkeypatch):
    released = []
    pool = SimpleNamespace(release_unused=lambda: released.append(True))
    monkeypatch.setattr("pyarrow.default_memory_pool", lambda: pool)
    fit(PMF(0), ratings, MAP(max_steps=1, learn_scales=None), progress=False)
    assert released


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (VI(max_steps=1, learn_scales=None), 2 * (162 + 52)),
        (MAP(max_steps=1, learn_scales=None), 162),
    ],
)
def test_it_counts_what_the_guide_has(ratings, monkeypatch, method, parameters):
    """30 x 2 + 20 x 2 factors, 4 of their means, 30 + 20 biases, mu, five sigma, 2 of tau: 162.

    Variational inference has 30 + 20 of noise and two standard deviations of these besides.
    """
    needed = fit_memory(400, parameters, 400)
    for free, fits in ((needed, True), (needed - 1, False)):
        found = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        if fits:
            fit(PMF(2), ratings, method, progress=False)
        else:
            with pytest.raises(FitError, match="needs about"):
                fit(PMF(2), ratings, method, progress=False)


def test_batches_and_precision_change_it():
    whole = fit_memory(10**6, 10**5, 10**6)
    assert fit_memory(10**6, 10**5, 10**6 // 8) < whole
    assert fit_memory(0, 10**5, 10**6 // 8) < fit_memory(10**6, 10**5, 10**6 // 8)
    assert fit_memory(10**6, 10**5, 10**6, torch.float64) == 2 * whole


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [NUTS, Gibbs])
def test_draws_that_do_not_fit_are_refused_before_one_is_drawn(ratings, monkeypatch, sampler):
    model = PMF(2, noise="shared")
    drawn = draws_memory(162, 4, 2, torch.float64)
    needed = draws_memory(162, 4, 3, torch.float64)  # those of one chain are there twice
    needed += sweep_memory(400, torch.float64) if sampler is Gibbs else 0
    ratings = ratings.to("cpu", torch.float64)
    method = sampler(n_draws=4, n_warmup=1, n_chains=2)
    for free, fits in ((needed, True), (needed - 1, False)):
        found = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        if fits:
            latents = fit(model, ratings, method, progress=False).latents
            assert sum(value.nbytes for value in latents.values()) == drawn
        else:
            with pytest.raises(FitError, match="n_draws"):
                fit(model, ratings, method, progress=False)


@pytest.mark.parametrize("is_in_files", [False, True])
def test_a_chain_of_ratings_in_files_needs_a_block(ratings, is_in_files, monkeypatch, tmp_path):
    monkeypatch.setattr("pyro_pmf.data.blocks._IN_A_BLOCK", 100)
    if is_in_files:
        frame = ratings.to_frame()
        frame["rating"] = frame["rating"].clip(*ratings.scale)
        frame.to_parquet(tmp_path / "a.parquet")
        ratings = Ratings.read_parts([tmp_path / "a.parquet"], tmp_path, scale=ratings.scale)
    needed = draws_memory(162, 4, 3, torch.float32)
    needed += sweep_memory(100 if is_in_files else 400, torch.float32)
    method = Gibbs(n_draws=4, n_warmup=1, n_chains=2, thin=1)
    for free in (needed, needed - 1):
        found = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        if free == needed:
            fit(PMF(2, noise="shared"), ratings, method, progress=False)
        else:
            with pytest.raises(FitError, match=r"keep ratings in files \(Ratings.read_parts\)"):
                fit(PMF(2, noise="shared"), ratings, method, progress=False)
