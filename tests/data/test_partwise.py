"""Ratings that are read part by part are those that are read at once, and stay in files."""

from __future__ import annotations

import errno
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from watching import Largest

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    BernoulliLogit,
    Gibbs,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Ratings,
    RatingsError,
    fit,
)
from pyro_pmf.data import blocks, pairs, partwise, ratings
from pyro_pmf.data import scratch as scratch_module
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.inference.variational import objective

SCALE = (0.5, 5.0)
DRAWS = Gibbs(n_draws=4, n_warmup=16, n_chains=1, thin=1)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Ratings of 60 users on nine levels, in random order."""
    generator = np.random.default_rng(0)
    cells = generator.permutation(60 * 40)[:900]
    rating = generator.integers(1, 10, len(cells)) / 2
    table = {"userId": cells // 40 + 100, "movieId": cells % 40 * 7, "rating": rating}
    return pd.DataFrame(table)


@pytest.fixture
def few_rows(monkeypatch):
    """Pieces of 50 rows, sorted 30 at a time."""
    monkeypatch.setattr(partwise, "_AT_ONCE", 50)
    monkeypatch.setattr(pairs, "_SORTED", 30)
    monkeypatch.setattr(ratings, "_AT_ONCE", 40)


def assert_same(found: Ratings, wanted: Ratings) -> None:
    for name in ("user", "item", "value"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert found.user_ids.equals(wanted.user_ids)
    assert found.item_ids.equals(wanted.item_ids)
    np.testing.assert_array_equal(found.rating, wanted.rating)
    told = "scale", "recorded", "transform", "dtype", "columns"
    assert [getattr(found, x) for x in told] == [getattr(wanted, x) for x in told]
    for ours, theirs in zip(found.pattern, wanted.pattern, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("ids", [int, str])
def test_a_sorted_parquet_file_is_read_some_users_after_the_others(ids, frame, tmp_path, few_rows):
    table = frame.astype({"userId": ids, "movieId": ids})
    path = tmp_path / "all.parquet"
    table.sort_values("userId", kind="stable").to_parquet(path, row_group_size=77, index=False)
    found = Ratings.read_parts([path], tmp_path, scale=SCALE)
    assert_same(found, Ratings.from_frame(table, "userId", "movieId", scale=SCALE))
    assert sorted(x.name for x in tmp_path.iterdir()) == ["all.parquet"]


def test_files_of_any_kind_have_users_of_their_own(frame, tmp_path, few_rows):
    """Users alternate between the files, so their ratings are put in between each other."""
    of = frame["userId"] % 3
    paths = [tmp_path / name for name in ("a.csv", "b.parquet", "c.tsv.gz")]
    frame[of == 0].to_csv(paths[0], index=False)
    frame[of == 1].sort_values("userId").to_parquet(paths[1])
    frame[of == 2].to_csv(paths[2], index=False, sep="\t")
    found = Ratings.read_parts(paths, tmp_path, scale=SCALE, dtype=torch.float64)
    whole = Ratings.from_frame(frame, "userId", "movieId", scale=SCALE, dtype=torch.float64)
    assert_same(found, whole)
    assert found.time is None


def test_repeated_pairs_are_treated_as_in_one_table(frame, tmp_path, few_rows):
    twice = pd.concat([frame, frame.iloc[::3].assign(rating=5.0)]).sort_values(
        "userId", kind="stable"
    )
    path = tmp_path / "twice.parquet"
    twice.to_parquet(path)
    for how in ("last", "mean"):
        found = Ratings.read_parts([path], tmp_path, scale=SCALE, on_duplicate=how)
        wanted = Ratings.from_frame(twice, "userId", "movieId", scale=SCALE, on_duplicate=how)
        assert_same(found, wanted)
    with pytest.raises(RatingsError, match="occurs more than once"):
        Ratings.read_parts([path], tmp_path, scale=SCALE)


def test_some_of_them_are_in_memory(frame, tmp_path):
    path = tmp_path / "a.parquet"
    frame.sort_values("userId").to_parquet(path)
    mapped = Ratings.read_parts([path], tmp_path, scale=SCALE)
    whole = Ratings.from_frame(frame, "userId", "movieId", scale=SCALE)
    for found, wanted in zip(mapped.split(0.2, 1), whole.split(0.2, 1), strict=True):
        assert not found.scratch.is_mapped
        assert_same(found, wanted)
    assert mapped.to("cpu", torch.float32) is mapped
    double = mapped.to("cpu", torch.float64)
    assert double.scratch.is_mapped
    assert_same(double, whole.to("cpu", torch.float64))
    longer = [ids.append(ids[-1:] * 2) for ids in (whole.user_ids, whole.item_ids)]
    assert mapped.indexed_by(*longer).scratch.is_mapped
    assert_same(mapped.indexed_by(*longer), whole.indexed_by(*longer))
    assert mapped.with_transform("standardize").scratch.is_mapped


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (PMF(1, likelihood=NormalSigmoid()), VI(max_steps=12)),
        (PMF(1, likelihood=NormalSigmoid()), MAP(max_steps=12)),
        (PMF(1, likelihood=OrderedLogit(10)), VI(max_steps=12, learn_scales=None)),
        (PMF(1, likelihood=NormalSigmoid()), DRAWS),
        (PMF(1, likelihood=OrderedLogit(10)), DRAWS),
    ],
    ids=["VI", "MAP", "levels", "draws", "draws of levels"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # so short a fit may be poor
def test_a_fit_is_the_same_and_makes_no_tensor_as_large_as_the_table(
    model, method, tmp_path, few_rows, monkeypatch
):
    generator = np.random.default_rng(0)
    cells = np.sort(generator.permutation(40 * 600)[:16000])
    rating = generator.integers(1, 11, len(cells)) / 2
    table = pd.DataFrame({"user": cells // 600, "item": cells % 600, "rating": rating})
    path = tmp_path / "a.parquet"
    table.to_parquet(path)
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 2000 if method is DRAWS else 600)
    monkeypatch.setattr("pyro_pmf.inference.mcmc.gibbs.initial._AT_ONCE", 100)
    monkeypatch.setattr("pyro_pmf.fitting._MOST_TO_LEARN_FROM", 800)
    monkeypatch.setattr("pyro_pmf.sanity._N_RATINGS", 20)
    monkeypatch.setattr("pyro_pmf.inference.variational.optimizers._MEMORY", 2)
    monkeypatch.setattr("pyro_pmf.model.likelihoods._AT_ONCE", 100)
    whole = fit(model, Ratings.from_frame(table, scale=SCALE), method, progress=False)
    mapped = Ratings.read_parts([path], tmp_path, scale=SCALE)
    with Largest() as watch:
        found = fit(model, mapped, method, progress=False)
    some = table[["user", "item"]].iloc[::50]
    pd.testing.assert_frame_equal(found.predict(some), whole.predict(some))
    told = "log_likelihood" if method is DRAWS else "elbo"
    np.testing.assert_array_equal(found.steps[told], whole.steps[told])
    assert watch.nbytes < 4 * len(mapped)  # a number in single precision for each rating


@pytest.mark.parametrize("method", [VI(), MAP()], ids=["VI", "MAP"])
@pytest.mark.parametrize(
    ("likelihood", "transform"),
    [
        (NormalSigmoid(), "unit"),
        (NormalIdentity(), "standardize"),
        (OrderedLogit(10), "unit"),
        (BernoulliLogit(), "unit"),
        (NegativeBinomialLog(), "count"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_step_needs_of_each_rating_is_in_files(
    likelihood, transform, method, tmp_path, monkeypatch
):
    generator = np.random.default_rng(0)
    cells = np.sort(generator.permutation(40 * 600)[:16000])
    is_binary = isinstance(likelihood, BernoulliLogit)
    rating = generator.integers(0, 2 if is_binary else 10, len(cells)).astype(float)
    table = pd.DataFrame({"user": cells // 600, "item": cells % 600, "rating": rating})
    table.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 2000)
    in_files, empty = set(), Scratch.empty

    def watched(*args):
        array = empty(*args)
        in_files.add(array.untyped_storage().data_ptr())
        return array

    monkeypatch.setattr(Scratch, "empty", watched)
    ratings = Ratings.read_parts(
        [tmp_path / "a.parquet"], tmp_path, scale=(0, max(rating)), transform=transform
    )
    model = PMF(1, users="hierarchical", items="hierarchical", likelihood=likelihood)
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        found = objective.pose(model, ratings, method)
        leaves = [leaf for _, leaf in found.parameters()]
        recording = found.recorded_gradient(leaves)
    known = {x.untyped_storage().data_ptr() for x in leaves} | in_files
    in_memory = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in recording.inputs}
    n_bytes = sum(x.nbytes() for pointer, x in in_memory.items() if pointer not in known)
    assert n_bytes < 4 * len(ratings)  # row pointers, and other rows of blocks


def test_saved_and_loaded_it_is_in_memory(frame, tmp_path):
    from pyro_pmf import load

    path = tmp_path / "a.parquet"
    frame.sort_values("userId").to_parquet(path)
    mapped = Ratings.read_parts([path], tmp_path, scale=SCALE)
    posterior = fit(PMF(0), mapped, MAP(learn_scales=None), progress=False)
    posterior.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert not again.ratings.scratch.is_mapped
    pd.testing.assert_frame_equal(again.predict(frame), posterior.predict(frame))


def with_names(frame, **names):
    return frame.rename(columns=names)


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (lambda f: [f[:500], f[400:]], {}, r"users have ratings in several parts, such as 1\d\d:"),
        (lambda f: [f[f.userId < 130], f[f.userId > 129].astype({"userId": str})], {}, "all str"),
        (lambda f: [f.assign(rating=9.0)], {}, "outside the scale"),
        (lambda f: [f.assign(userId=f.userId.where(f.userId > 110))], {}, "have no id"),
        (lambda f: [f, with_names(f, userId="who", movieId="what")], {}, "no one column"),
        (lambda f: [f], {"scale": None}, "need scale="),
        (lambda f: [f], {"rating": None}, "need a column of ratings"),
        (lambda f: [f], {"folder": "nowhere"}, "is no folder .* give folder="),
        (lambda f: [f], {"folder": None}, "is no folder .* give folder="),
        (lambda f: [f], {"dtype": int}, "cannot be computed with"),
        (lambda f: [], {}, "at least one file"),
    ],
)
def test_what_is_refused(parts, options, message, frame, tmp_path):
    paths = []
    for k, part in enumerate(parts(frame)):
        paths.append(tmp_path / f"{k}.parquet")
        part.sort_values(next(iter(part))).to_parquet(paths[-1])
    given = {"folder": tmp_path, "scale": SCALE} | options
    with pytest.raises(RatingsError, match=message):
        Ratings.read_parts(paths, **given)


def test_one_path_is_not_taken_for_its_letters(tmp_path):
    with pytest.raises(RatingsError, match=r"Give the paths of all parts, such as \['a.csv'\]"):
        Ratings.read_parts("a.csv", tmp_path, scale=SCALE)
    with pytest.raises(RatingsError, match="Give the paths of all parts"):
        Ratings.read_parts(7, tmp_path, scale=SCALE)


# --- scratch ---


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_vectors_in_files_are_vectors(dtype, tmp_path):
    scratch = Scratch(tmp_path)
    x = torch.arange(1000).to(dtype)
    kept = scratch.keep(x)
    assert torch.equal(kept, x)
    assert kept.dtype == dtype
    kept[3:5] = 7
    assert kept[2:6].tolist() == [2, 7, 7, 5]
    assert not list(tmp_path.iterdir())
    assert len(scratch.empty(0, dtype)) == 0


def test_a_matrix_in_a_file_is_a_matrix(tmp_path):
    x = torch.arange(12).view(3, 4).T > 4
    kept = Scratch(tmp_path).keep(x)
    assert torch.equal(kept, x)
    assert kept.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_files_of_arrays_that_are_gone_serve_the_next_ones(tmp_path, monkeypatch):
    made, new = [], scratch_module._mapped
    monkeypatch.setattr(scratch_module, "_mapped", lambda *x: made.append(x) or new(*x))
    scratch = Scratch(tmp_path)
    first = scratch.keep(torch.arange(10.0))
    view = first[3:5]
    del first
    second = scratch.keep(torch.zeros(10))  # the view still has the first one
    assert view.tolist() == [3.0, 4.0]
    assert len(made) == 2
    del view, second
    third, fourth = scratch.keep(torch.ones(5).double()), scratch.keep(torch.ones(10).int())
    assert (third.tolist(), fourth.tolist()) == ([1.0] * 5, [1] * 10)
    assert len(made) == 2
    scratch.empty(11, torch.int32)
    assert len(made) == 3
    assert pickle.loads(pickle.dumps(scratch)).folder == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a mapping holds its file open")
def test_arrays_in_files_are_not_open_files(tmp_path):
    """A process may have 1,024 of them, as a rule; ratings have a dozen arrays a million."""
    scratch, before = Scratch(tmp_path), len(os.listdir("/proc/self/fd"))
    kept = [scratch.keep(torch.full((7,), k)) for k in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert [int(x[6]) for x in kept] == list(range(50))


def test_in_memory_a_vector_is_itself():
    x = torch.arange(3)
    assert Scratch().keep(x) is x
    assert not Scratch().is_mapped


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the file system cannot promise")
def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RatingsError, match="No space left on device"):
        Scratch(tmp_path).empty(10, torch.float32)
