"""What is saved comes back equal, and nothing half-written is ever there."""

import copy
import json
import os
import pickle
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzz.folders import GOLDEN, change_header, contents, sign
from pyro.infer.autoguide import AutoNormal
from safetensors import SafetensorError

from pyro_pmf import (
    MAP,
    NUTS,
    PMF,
    VI,
    Fixed,
    HalfNormal,
    LogNormal,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Priors,
    Ratings,
    StorageError,
    files,
    fit,
    load,
)
from pyro_pmf.criticism import loo
from pyro_pmf.datasets import simulate
from pyro_pmf.model import storage
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


def test_only_files_of_this_package_are_deleted(tmp_path):
    """A stranger among the files, by any name, or a file that has changed: it is not replaced."""
    folder = tmp_path / "m.pmf"
    posterior = fitted()
    posterior.save(folder)
    for name in ("notes.txt", "history.parquet", ".hidden"):
        (folder / name).write_text("precious")
        with pytest.raises(StorageError, match=f"also holds {name}, which is no part of a"):
            posterior.save(folder, overwrite=True)
        assert (folder / name).read_text() == "precious"
        (folder / name).unlink()
    (folder / "drawings").mkdir()
    with pytest.raises(StorageError, match="also holds drawings"):
        posterior.save(folder, overwrite=True)
    (folder / "drawings").rmdir()
    (folder / "users.parquet").write_text("precious")
    with pytest.raises(StorageError, match="delete it yourself"):
        posterior.save(folder, overwrite=True)
    assert (folder / "users.parquet").read_text() == "precious"


def test_a_folder_of_an_earlier_version_is_replaced(tmp_path):
    folder = tmp_path / "m.pmf"
    shutil.copytree(GOLDEN / "format-3-vi", folder)
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(StorageError, match=r"notes\.txt"):
        fitted().save(folder, overwrite=True)
    (folder / "notes.txt").unlink()
    fitted().save(folder, overwrite=True)
    assert "history.parquet" not in contents(folder)
    load(folder)


def test_a_json_file_of_others_is_not_a_posterior(tmp_path):
    (tmp_path / "m.pmf").mkdir()
    (tmp_path / "m.pmf" / "posterior.json").write_text("{}")
    with pytest.raises(StorageError, match="not a whole saved posterior"):
        fitted().save(tmp_path / "m.pmf", overwrite=True)
    assert (tmp_path / "m.pmf" / "posterior.json").read_text() == "{}"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fitted().save(tmp_path / "monday.pmf")
    (tmp_path / "latest.pmf").symlink_to("monday.pmf")
    fitted().save(tmp_path / "latest.pmf", overwrite=True)
    assert (tmp_path / "latest.pmf").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.pmf", "monday.pmf"]
    load(tmp_path / "latest.pmf")


def test_a_save_that_was_killed_is_cleared_up(tmp_path):
    posterior = fitted()
    posterior.save(tmp_path / "m.pmf")
    dead = tmp_path / f".m.pmf.{files._HOST}-{2**22 + 1}-01234567.unfinished"
    shutil.copytree(tmp_path / "m.pmf", dead)
    (tmp_path / "m.pmf").rename(dead.with_suffix(".replaced"))
    assert load(tmp_path / "m.pmf").model == posterior.model  # it is found beside its place
    with pytest.raises(StorageError, match="overwrite=True"):
        posterior.save(tmp_path / "m.pmf")
    posterior.save(tmp_path / "m.pmf", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pmf"]


def test_a_folder_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """The reader begins again, where half of the files are of the old posterior."""
    folder = tmp_path / "m.pmf"
    load(GOLDEN / "format-6-vi").save(folder)
    newer, verify, calls = load(GOLDEN / "format-6-draws"), storage.verify, []

    def meanwhile(where):
        found = verify(where)
        if not calls:
            calls.append(where)
            newer.save(folder, overwrite=True)
            raise ValueError("half of it is another")
        return found

    monkeypatch.setattr(storage, "verify", meanwhile)
    assert load(folder).model == newer.model


@pytest.mark.parametrize("error", [OSError, SafetensorError, pa.ArrowInvalid])
def test_an_interrupted_save_leaves_the_old_one(tmp_path, monkeypatch, error):
    posterior = fitted()
    posterior.save(tmp_path / "m.pmf")

    def full_disk(*args, **kwargs):
        raise error("No space left on device")

    monkeypatch.setattr(storage, "save_file", full_disk)
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


@pytest.mark.parametrize("path", ["a\0b", 3, None, "x" * 5000])
def test_what_is_not_a_path(path):
    with pytest.raises(StorageError):
        load(path)
    with pytest.raises(StorageError):
        load(GOLDEN / "format-6-vi").save(path)


def test_files_that_may_not_be_read(monkeypatch):
    """They are not damaged, so another fit is not the remedy."""

    def refuse(file, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(storage, "verify", refuse)
    with pytest.raises(StorageError, match=r"cannot be read: .*Permission denied"):
        load(GOLDEN / "format-6-vi")
    monkeypatch.setattr(storage, "standing", refuse)
    with pytest.raises(StorageError, match=r"cannot be read: .*Permission denied"):
        load(GOLDEN / "format-6-vi")


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
    assert header["format"] == 6
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Choose a folder that can be written"):
        fitted().save(tmp_path / "m.pmf")


def test_a_disk_that_is_full(tmp_path):
    """A disk of 8 kB: the error is clear, and the old posterior is as it was."""
    resource = pytest.importorskip("resource")
    posterior = fitted()
    posterior.save(tmp_path / "m.pmf")
    before = contents(tmp_path / "m.pmf")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"on a disk with room.*as it was"):
            posterior.save(tmp_path / "m.pmf", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path / "m.pmf") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.pmf"]


def with_ids(users):
    """Return a fit with other ids of users, which are four."""
    old = load(GOLDEN / "format-6-draws")
    ratings = copy.copy(old.ratings)
    ratings.user_ids = pd.Index(users, dtype=object if "\ud800" in users else None)
    return replace(old, ratings=ratings)


@pytest.mark.parametrize(
    "users",
    [
        [-(2**63), -1, 0, 2**63 - 1],
        [0, 1, 2**63, 2**64 - 1],
        ["", " ", "a\0b", "\U0001f600"],
        ["1", "1.0", "01", "nan"],
    ],
)
def test_odd_ids_come_back(tmp_path, users):
    users = sorted(users)
    with_ids(users).save(tmp_path / "m.pmf")
    assert load(tmp_path / "m.pmf").ratings.user_ids.tolist() == users


@pytest.mark.parametrize(
    ("users", "match"),
    [
        ([1, 2, 3, 2**64], f"user ids 1 to {2**64}.*; fit with ids.*or text"),
        ([-(2**63) - 1, 1, 2, 3], "cannot hold the user ids -9223372036854775809 to"),
        ([-1, 1, 2, 2**63], "cannot hold the user ids -1 to"),
        (["a", "b", "c", "\ud800"], "text of whole characters"),
        ([1, 2, 2, 3], "not sorted and unique"),
        ([3, 2, 1, 0], "not sorted and unique"),
        ([1, 2, 3, "4"], "neither all int nor all str"),
    ],
)
def test_ids_that_cannot_be_stored_are_refused_before_anything_is_written(tmp_path, users, match):
    with pytest.raises(StorageError, match=f"Nothing was saved.*{match}"):
        with_ids(users).save(tmp_path / "new" / "m.pmf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vi", "draws"])
def test_training_ratings_can_be_left_out(tmp_path, name):
    """Predictions need the pairs, and not their ratings."""
    whole = load(GOLDEN / f"format-6-{name}")
    whole.save(tmp_path / "m.pmf", training_ratings=False)
    table = pq.read_table(tmp_path / "m.pmf" / "ratings.parquet")
    assert table.column_names == ["user", "item"]
    less = load(tmp_path / "m.pmf")
    assert less.ratings.rating is less.ratings.value is less.ratings.time is None
    known = pd.DataFrame({"user": ["ann", "dan", "new"], "item": [8, 7, 7], "rating": 3.0})
    for ask in (
        lambda posterior: posterior.predict(known),
        lambda posterior: posterior.scores(known),
        lambda posterior: posterior.recommend(["ann", "new"]),
        lambda posterior: posterior.similar_items(7),
        lambda posterior: posterior.item_effects(),
        lambda posterior: posterior.factor_norms(),
        lambda posterior: posterior.predict_levels(known, [1, 2, 3, 4, 5]),
    ):
        pd.testing.assert_frame_equal(ask(less), ask(whole))
    np.testing.assert_array_equal(less.sample(known, 3), whole.sample(known, 3))
    for ask in (
        lambda posterior: posterior.explain("ann", 8),
        lambda posterior: posterior.update(known),
        lambda posterior: loo(posterior, known),
    ):
        with pytest.raises(PMFError, match=r"needs the training ratings.*training_ratings=True"):
            ask(less)
    with pytest.raises(PMFError, match="have no ratings"):
        less.evaluate(less.ratings)
    less.save(tmp_path / "again.pmf")
    assert contents(tmp_path / "again.pmf") == contents(tmp_path / "m.pmf")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vi", "draws"])
def test_new_users_and_items_are_folded_in_without_training_ratings(tmp_path, name):
    whole = load(GOLDEN / f"format-6-{name}")
    whole.save(tmp_path / "m.pmf", training_ratings=False)
    less = load(tmp_path / "m.pmf")
    new = pd.DataFrame(
        {"user": ["new", "new", "ann"], "item": [7, 9, 11], "rating": [4.0, 1.0, 5.0]}
    )
    pairs = pd.DataFrame({"user": ["new", "ann", "new"], "item": [8, 11, 11]})
    folded, expected = less.fold_in(new), whole.fold_in(new)
    pd.testing.assert_frame_equal(folded.predict(pairs), expected.predict(pairs))
    assert folded.ratings.rating is None
    folded.save(tmp_path / "folded.pmf")
    pd.testing.assert_frame_equal(
        load(tmp_path / "folded.pmf").predict(pairs), expected.predict(pairs)
    )
    old = pd.DataFrame({"user": ["ann"], "item": [8], "rating": [4.0]})
    with pytest.raises(PMFError, match=r"new users or of new items.*training_ratings=True"):
        less.fold_in(old)


def test_a_posterior_is_loaded_onto_a_device():
    """`meta` stands for a GPU: everything is there, and nothing stays on the CPU."""
    posterior = load(GOLDEN / "format-6-vi", device="meta")
    devices = {value.device.type for value in posterior.latents.values()}
    assert devices == {"meta"}
    assert posterior.ratings.user.device.type == posterior.history.user.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_posterior_on_a_gpu_is_saved_and_loaded(tmp_path):
    there = load(GOLDEN / "format-6-vi", device="cuda")
    there.save(tmp_path / "m.pmf")
    pd.testing.assert_frame_equal(
        load(tmp_path / "m.pmf").predict(PAIRS[:2]),
        load(GOLDEN / "format-6-vi").predict(PAIRS[:2]),
    )


def test_nothing_in_a_folder_is_executed(tmp_path, monkeypatch):
    """Neither unpickled nor evaluated, whatever the files hold."""
    shutil.copytree(GOLDEN / "format-6-vi", tmp_path / "m.pmf")

    class Trap:
        def __reduce__(self):
            return os.system, ("exit 1",)

    def never(*args, **kwargs):
        raise AssertionError("something was executed")

    trap = pickle.dumps(Trap())
    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "load", never)
    load(tmp_path / "m.pmf")
    for name in contents(tmp_path / "m.pmf"):
        if name != "SHA256SUMS":
            whole = (tmp_path / "m.pmf" / name).read_bytes()
            (tmp_path / "m.pmf" / name).write_bytes(trap)
            sign(tmp_path / "m.pmf")
            with pytest.raises(StorageError):
                load(tmp_path / "m.pmf")
            (tmp_path / "m.pmf" / name).write_bytes(whole)


def test_another_model_than_that_of_the_fit_is_refused():
    for model in (PMF(1, items="hierarchical"), "PMF", PMF):
        with pytest.raises(StorageError, match="of a PMF, and says which: leave model="):
            load(GOLDEN / "format-6-vi", model=model)


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
    model = PMF(2, likelihood=likelihood, priors=Priors(mu=Normal(0.0, 5.0)))
    saved = fit(model, train, BRIEFLY, progress=False)
    saved.save(tmp_path / "m.pmf")
    loaded = load(tmp_path / "m.pmf")
    assert loaded.model == saved.model
    assert loaded.ratings.transform == train.transform
    assert torch.equal(loaded.ratings.value, train.value)
    pd.testing.assert_frame_equal(loaded.predict(PAIRS), saved.predict(PAIRS))
    pd.testing.assert_frame_equal(loaded.scores(test), saved.scores(test))
