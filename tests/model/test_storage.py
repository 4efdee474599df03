"""What is saved comes back equal, and nothing half-written is ever there."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz.folders import change_header
from pyro.infer.autoguide import AutoNormal

import pyro_pmf.model.storage
from pyro_pmf import (
    MAP,
    NUTS,
    PMF,
    VI,
    Fixed,
    HalfNormal,
    LogNormal,
    NegativeBinomialLog,
    NormalIdentity,
    OrderedLogit,
    Priors,
    Ratings,
    StorageError,
    fit,
    load,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.model.learned import Converged
from pyro_pmf.moments.gaussian import LogGaussian

FRAME = pd.DataFrame(
    {
        "user": np.repeat(["ann", "bob", "cyd", "dan"], 5),
        "item": np.tile([3, 1, 4, 15, 9], 4),
        "rating": np.random.default_rng(0).integers(1, 6, 20),
        "time": np.arange(20),
    }
)[:-2]
PAIRS = pd.DataFrame({"user": ["ann", "dan", "dan", "eve"], "item": [1, 9, 15, 77]})


BRIEFLY = VI(max_steps=5, n_draws=7, learn_scales=None)


def fitted(model=None, method=BRIEFLY, time=None, dtype=torch.float32):
    ratings = Ratings.from_frame(FRAME, time=time, scale=(1, 5), dtype=dtype)
    model = model or PMF(
        n_factors=2,
        users="hierarchical",
        divisor="count",
        noise="item",
        priors=Priors(sigma_U=Fixed(0.3), sigma=LogNormal(0.2, 0.5)),
    )
    return fit(model, ratings, method, progress=False)


@pytest.mark.parametrize("guide", ["normal", "auto"])
@pytest.mark.parametrize("time", [None, "time"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_load_gives_back_what_was_saved(tmp_path, guide, time, dtype):
    model = PMF(n_factors=2, items="hierarchical", biases=False)
    if guide == "auto":
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            saved = fitted(model, replace(BRIEFLY, guide=AutoNormal(model)), time, dtype)
    else:
        saved = fitted(None, BRIEFLY, time, dtype)
    saved.save(tmp_path / "a" / "movies.pmf")
    loaded = load(tmp_path / "a" / "movies.pmf")

    assert loaded.model == saved.model
    assert loaded.ratings.scale == saved.ratings.scale
    pd.testing.assert_frame_equal(loaded.ratings.to_frame(), saved.ratings.to_frame())
    pd.testing.assert_frame_equal(loaded.steps, saved.steps)
    assert loaded.converged == saved.converged
    assert loaded.n_draws == saved.n_draws == (7 if guide == "auto" else None)
    assert loaded.n_chains is None
    pd.testing.assert_frame_equal(loaded.predict(PAIRS[:3]), saved.predict(PAIRS[:3]))
    np.testing.assert_array_equal(loaded.sample(PAIRS, 3), saved.sample(PAIRS, 3))
    pd.testing.assert_frame_equal(loaded.recommend("dan"), saved.recommend("dan"))


@pytest.mark.slow
@pytest.mark.parametrize("biases", [True, "user", "item"])
def test_models_with_numbers_of_numpy(tmp_path, biases):
    priors = Priors(sigma_b=Fixed(np.float32(1.7)), sigma_c=HalfNormal(np.float64(0.3)))
    model = PMF(np.int64(2), biases=biases, priors=priors, likelihood=OrderedLogit(np.int32(5)))
    saved = fitted(model, dtype=torch.float64)
    saved.save(tmp_path / "movies.pmf")
    loaded = load(tmp_path / "movies.pmf")
    assert loaded.model == saved.model
    unknown = pd.DataFrame({"user": ["nobody"], "item": [PAIRS["item"].iloc[0]]})
    pd.testing.assert_frame_equal(loaded.predict(unknown), saved.predict(unknown))


def test_point_estimate_and_dates(tmp_path):
    ratings = Ratings.from_frame(
        FRAME.assign(time=pd.date_range("2020-01-01", periods=len(FRAME))), time="time"
    )
    saved = fit(PMF(n_factors=0), ratings, MAP(max_steps=5), progress=False)
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    pd.testing.assert_frame_equal(loaded.predict(PAIRS), saved.predict(PAIRS))
    pd.testing.assert_frame_equal(loaded.ratings.to_frame(), saved.ratings.to_frame())


def test_no_pickle(tmp_path):
    fitted().save(tmp_path / "m.pmf")
    names = {path.name for path in (tmp_path / "m.pmf").iterdir()}
    assert names == {
        "posterior.json",
        "latents.safetensors",
        "users.parquet",
        "items.parquet",
        "ratings.parquet",
        "steps.parquet",
        "SHA256SUMS",
    }
    header = json.loads((tmp_path / "m.pmf" / "posterior.json").read_text())
    assert header["model"]["priors"]["sigma_U"] == {"family": "Fixed", "value": 0.3}


def test_existing_files_are_safe(tmp_path):
    posterior = fitted()
    posterior.save(tmp_path / "m.pmf")
    with pytest.raises(StorageError, match="overwrite=True"):
        posterior.save(tmp_path / "m.pmf")
    posterior.save(tmp_path / "m.pmf", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(StorageError, match="not a saved posterior"):
        posterior.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"


def test_an_interrupted_save_leaves_the_old_one(tmp_path, monkeypatch):
    posterior = fitted()
    posterior.save(tmp_path / "m.pmf")

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(pyro_pmf.model.storage, "save_file", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        posterior.save(tmp_path / "m.pmf", overwrite=True)
    with pytest.raises(StorageError, match="No space left"):
        posterior.save(tmp_path / "n.pmf")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pmf"]
    assert load(tmp_path / "m.pmf").model == posterior.model


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        fitted().save(tmp_path / "file" / "m.pmf")


@pytest.mark.parametrize(
    "name", ["posterior.json", "latents.safetensors", "ratings.parquet", "steps.parquet"]
)
def test_damage_is_told(tmp_path, name):
    folder = tmp_path / "m.pmf"
    fitted().save(folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match=f"damaged.*{name} is not what was saved"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(StorageError, match=name):
        load(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(StorageError, match="not a saved posterior"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(("number", "remedy"), [(99, "upgrade"), (1, "fit and save it again")])
def test_other_formats_are_refused(tmp_path, number, remedy):
    folder = tmp_path / "m.pmf"
    fitted().save(folder)
    change_header(folder, lambda header: header.update(format=number))
    with pytest.raises(StorageError, match=f"format {number}; .*{remedy}"):
        load(folder)


def test_the_header_says_how_many_draws_and_chains_there_are(tmp_path):
    fitted().save(tmp_path / "m.pmf")
    header = json.loads((tmp_path / "m.pmf" / "posterior.json").read_text())
    assert header["format"] == 4
    assert {"pyro-pmf", "torch", "pyarrow"} < header["versions"].keys()
    assert (header["n_draws"], header["n_chains"]) == (None, None)


@pytest.mark.slow
def test_chains_come_back(tmp_path):
    model = PMF(0, noise="shared")
    saved = fitted(model, NUTS(n_draws=4, n_warmup=4, n_chains=2))
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    assert (loaded.n_draws, loaded.n_chains) == (saved.n_draws, saved.n_chains) == (8, 2)
    pd.testing.assert_frame_equal(loaded.steps, saved.steps)
    assert loaded.latents.keys() == saved.latents.keys()
    assert all(torch.equal(loaded.latents[name], x) for name, x in saved.latents.items())


@pytest.mark.parametrize("parts", [(True, False), (False, True), (True, True)])
def test_what_has_converged_comes_back(tmp_path, parts):
    saved = replace(fitted(), converged=Converged(*parts))
    saved.save(tmp_path / "m.pmf")
    assert load(tmp_path / "m.pmf").converged == Converged(*parts)


def test_a_model_of_ones_own_is_given_again(tmp_path):
    inner = PMF(n_factors=0)

    def model(ratings, history=None):
        return inner(ratings, history)

    saved = fitted(model)
    saved.save(tmp_path / "m.pmf")
    with pytest.raises(StorageError, match=r"load\(path, model"):
        load(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf", model=model)
    pd.testing.assert_frame_equal(loaded.predict(PAIRS), saved.predict(PAIRS))


def test_ids_without_ratings_keep_their_rows(tmp_path):
    """Users and items are saved as they are, not as the ratings happen to name them."""
    train, test = Ratings.from_frame(FRAME, scale=(1, 5)).split(0.5, seed=3)
    few = test.aligned_to(train)
    assert set(few.to_frame()["item"]) < set(train.item_ids)
    saved = fit(PMF(n_factors=0), few, BRIEFLY, progress=False)
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    pd.testing.assert_index_equal(loaded.ratings.item_ids, train.item_ids)
    pd.testing.assert_frame_equal(loaded.predict(PAIRS), saved.predict(PAIRS))


def test_moments_that_many_entries_share_are_written_out(tmp_path):
    """What is learnt keeps its shape, also where a guide keeps fewer moments than entries."""
    saved = fitted()
    shared = LogGaussian(torch.tensor(-1.0), torch.tensor(0.1), frozenset({"tau"})).expand(2)
    saved.latents["tau"] = shared
    saved.save(tmp_path / "m.pmf")
    again = load(tmp_path / "m.pmf").latents["tau"]
    assert again.shape == (2,)
    assert torch.equal(again.mean, shared.mean)
    assert again.sites == {"tau"}


def test_simulated_ratings_may_lie_off_the_scale(tmp_path):
    ratings, _ = simulate(PMF(n_factors=0), 6, 5, 20, scale=(1, 5))
    saved = fit(PMF(n_factors=0), ratings, BRIEFLY, progress=False)
    saved.save(tmp_path / "m.pmf")
    np.testing.assert_array_equal(load(tmp_path / "m.pmf").ratings.rating, ratings.rating)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_it(tmp_path, mask):
    saved = fitted()
    before = os.umask(mask)
    try:
        saved.save(tmp_path / "m.pmf")
    finally:
        os.umask(before)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "m.pmf").iterdir()}
    assert modes == {0o666 & ~mask}
    assert (tmp_path / "m.pmf").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_subclass_is_not_taken_for_a_pmf(tmp_path):
    class Louder(PMF):
        pass

    fitted(Louder(n_factors=0)).save(tmp_path / "m.pmf")
    with pytest.raises(StorageError, match=r"load\(path, model"):
        load(tmp_path / "m.pmf")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "likelihood"),
    [
        ("unit", NormalIdentity()),
        ("standardize", NormalIdentity()),
        ("log1p", NormalIdentity()),
        ("count", NegativeBinomialLog()),
    ],
)
def test_transforms_and_counts_come_back(tmp_path, transform, likelihood):
    counts = FRAME.assign(rating=7 ** FRAME["rating"] + FRAME["item"])
    ratings = Ratings.from_frame(counts, transform=transform)
    train, test = ratings.split(0.2, seed=0)
    saved = fit(PMF(2, likelihood=likelihood), train, BRIEFLY, progress=False)
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    assert loaded.model == saved.model
    assert loaded.ratings.transform == train.transform
    assert torch.equal(loaded.ratings.value, train.value)
    pd.testing.assert_frame_equal(loaded.predict(PAIRS), saved.predict(PAIRS))
    pd.testing.assert_frame_equal(loaded.scores(test), saved.scores(test))
