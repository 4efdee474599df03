"""Fits that several processes share, against the same fits in one process."""

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import shared
import torch
from launching import log_of

from pyro_pmf import PMF, VI, StorageError, load
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.shards import shard_of


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Two processes of which one ends in the middle: where, their exit codes, and seconds."""
    folder = tmp_path_factory.mktemp("shared")
    return folder, *shared.launch(folder, "killed")


@pytest.fixture(scope="module")
def done(killed):
    """Where two processes, which start once, resumed what was killed and did all the rest."""
    folder, *_ = killed
    codes, _ = shared.launch(folder, "all")
    assert codes == [0, 0], log_of(folder, "all")
    return folder


@pytest.mark.slow
def test_two_processes_fit_what_one_fits(done):
    """The ELBO of each early step, and the predictions, up to sums in another order.

    The first process saves the whole posterior.
    """
    found = json.loads((done / "fits.json").read_text())
    for name in shared.FITS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = shared.told(shared.fitted(name))
        both = found[name]
        assert both["ratings"] == alone["ratings"]
        close = {
            "first steps": (both["elbo"][:20], alone["elbo"][:20], {"rtol": 1e-7}),
            "last step": (both["elbo"][-1], alone["elbo"][-1], {"rtol": 1e-4}),
            "mean": (both["mean"], alone["mean"], {"atol": 2e-3 * np.ptp(alone["mean"])}),
            "sd": (both["sd"], alone["sd"], {"rtol": 2e-2}),
        }
        for what, (ours, theirs, tolerance) in close.items():
            np.testing.assert_allclose(ours, theirs, **tolerance, err_msg=f"{name}: {what}")
    table = load(done / "posterior").predict(shared.FRAME[["user", "item"]])
    np.testing.assert_allclose(table["mean"], found["vi"]["mean"], rtol=1e-6)


@pytest.mark.slow
def test_processes_with_users_of_their_own_fit_what_one_fits_and_save_parts(done, tmp_path):
    found = [json.loads((done / f"parts-{rank}.json").read_text()) for rank in range(2)]
    for name in ("halves", "seconds"):
        shutil.copytree(done / name, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = shared.told(shared.fitted("both sides"))
    for part in found:
        np.testing.assert_allclose(part["halves"]["elbo"][:20], alone["elbo"][:20], rtol=1e-7)
        assert "other process has" in part["overlap"]
    for name in ("halves", "seconds"):
        whole = load(tmp_path / name)
        assert len(whole.ratings) == len(shared.RATINGS)
        assert whole.ratings.user_ids.equals(shared.RATINGS.user_ids)
        for part in found:
            rows = pd.DataFrame(part[name]["rows"])
            table = whole.predict(rows[["user", "item"]])
            for column in ("mean", "sd", "lower"):
                np.testing.assert_allclose(table[column], rows[column], rtol=1e-5)
        loaded = load(tmp_path / name / "part-00001-of-00002")
        assert loaded.ratings.n_users < shared.RATINGS.n_users
        assert loaded.ratings.n_items == shared.RATINGS.n_items
    # a part is missing, or is one of another fit
    last = "part-00001-of-00002"
    (tmp_path / "seconds" / last).rename(tmp_path / "aside")
    with pytest.raises(StorageError, match="in the place of all parts"):
        load(tmp_path / "seconds")
    (tmp_path / "halves" / last).rename(tmp_path / "seconds" / last)
    with pytest.raises(StorageError, match="parts"):
        load(tmp_path / "seconds")


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_in_each_process(done):
    said = [json.loads((done / f"refused-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert set(said[0]) == {*shared.REFUSED, "checkpoint"}
    assert all("one process" in said[0][name] for name in ("gibbs", "nuts", "batches"))
    assert "a file" in said[0]["checkpoint"]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_fit_resumes_to_the_same_numbers(killed, done):
    folder, codes, seconds = killed
    assert codes[1] == 9
    assert codes[0] not in (0, 9), log_of(folder, "killed")
    assert "Another process of this fit has ended" in (folder / "error-0").read_text()
    assert seconds < 60  # with the start of Python and torch in both
    resumed, whole = (
        json.loads((done / f"{name}.json").read_text()) for name in ("resumed", "whole")
    )
    assert resumed == whole


def pairs_of(counts):
    """Return pairs of users with these numbers of pairs."""
    user = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    item = torch.cat([torch.arange(n) for n in counts])
    value = torch.linspace(0, 1, len(user))
    return Pairs(user, item, len(counts), max(counts), value)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "counts", [[1] * 12, [30, 1, 1, 1], [1, 1, 1, 30], [0, 5, 0, 4, 3, 0], [3]], ids=str
)
def test_shards_are_a_partition_of_the_users(counts, size):
    pairs = pairs_of(counts)
    shards = [shard_of(pairs, rank, size) for rank in range(size)]
    assert [s.first for s in shards] == [0, *(s.last for s in shards[:-1])]
    assert shards[-1].last == len(counts)
    user = torch.cat([shard.user + shard.first for shard in shards])
    assert torch.equal(user, pairs.user)
    for name in ("item", "value"):
        assert torch.equal(torch.cat([getattr(s, name) for s in shards]), getattr(pairs, name))
    assert all(torch.equal(shard.item_counts, pairs.item_counts) for shard in shards)
    assert all(shard.n_users == shard.last - shard.first for shard in shards)


def test_shards_have_about_the_same_number_of_pairs():
    generator = np.random.default_rng(0)
    counts = generator.geometric(0.02, 500).tolist()
    pairs = pairs_of(counts)
    sizes = [len(shard_of(pairs, rank, 4)) for rank in range(4)]
    assert max(sizes) - min(sizes) <= max(counts)


def test_world_size_alone_starts_no_processes(monkeypatch):
    """Other launchers than torchrun set the name, too."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quick = VI(learn_scales=None, max_steps=2)
        posterior = shared.fit(PMF(1), shared.RATINGS, quick, progress=False)
    assert len(posterior.steps) == 2
