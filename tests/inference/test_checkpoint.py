"""Checkpoints: the same numbers after any break, whole files, and refusals that say why."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from killed import BIASES, FITS, RATINGS, STARS, Killed, digest, run
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    Checkpoint,
    FitError,
    Gibbs,
    Priors,
    Progress,
    Ratings,
    StorageError,
    fit,
)
from pyro_pmf.inference import checkpoint as module
from pyro_pmf.inference.checkpoint import fingerprint_of

QUICK = MAP(max_steps=20, learn_scales=None)


@cache
def whole_fit(name: str):
    """A fit that nothing breaks off; many tests compare with it."""
    return run(name)


class Broken(Exception):
    """What ends a fit without warning."""


def broken_at(*steps: int):
    """Return a callback that breaks a fit off at the first of these steps, then at the next."""
    left = list(steps)

    def callback(progress: Progress) -> None:
        if left and progress.step >= left[0]:
            left.pop(0)
            raise Broken

    return callback


def quick(path=None, *, model=BIASES, ratings=RATINGS, method=QUICK, **options):
    return fit(model, ratings, method, progress=False, checkpoint=path, **options)


def break_off(path, at=7, **options) -> None:
    """Leave a checkpoint of a fit that has not ended."""
    with pytest.raises(Broken):
        quick(Checkpoint(path, 0), callback=broken_at(at), **options)


# --- the same numbers ---


# Steps at which a fit breaks off: early, late, and around what an optimiser or a chain does anew.
CUTS = {
    "lbfgs": [(1,), (17,), (40, 41, 44)],
    "held-out": [(2, 20)],
    "elbo": [(39, 42)],
    "batches": [(4, 5), (26,)],
    "sampled": [(2, 26)],
    "map": [(2,), (24, 25, 26, 49)],
    "map-held-out": [(3, 30)],
    "gibbs": [(1, 9), (17, 19, 20), (21, 22, 37), (31, 31, 31)],
    "gibbs-levels": [(2, 10, 21), (26, 30, 36), (63, 70)],
    "nuts": [(5, 13, 15), (12,)],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        pytest.param(name, cuts, marks=[pytest.mark.long] if name == "nuts" else [])
        for name in FITS
        for cuts in CUTS[name]
    ],
    ids=str,
)
def test_a_fit_that_breaks_off_ends_with_the_same_numbers(tmp_path, name, cuts):
    """To the last bit, after each of several breaks, though it goes on with other steps."""
    wanted, callback = whole_fit(name), broken_at(*cuts)
    often = Checkpoint(tmp_path / "there" / "not yet", every=0)
    for _ in cuts:
        with pytest.raises(Broken):
            run(name, checkpoint=often, resume=True, callback=callback)
    end = run(name, checkpoint=often, resume=True, callback=callback)
    assert digest(end) == digest(wanted)
    assert (end.steps["seconds"].diff().dropna() > 0).all()
    seen = []
    again = run(name, checkpoint=often, resume=True, callback=seen.append)
    assert digest(again) == digest(wanted)
    assert not seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lbfgs", "sampled", "gibbs"])
def test_writing_checkpoints_changes_nothing(tmp_path, name):
    assert digest(run(name, checkpoint=Checkpoint(tmp_path, 0))) == digest(whole_fit(name))


@pytest.mark.long
def test_a_chain_goes_on_where_it_was(tmp_path):
    """Without its warm-up; a chain of NUTS begins anew, but complete ones are kept."""
    seen = {"gibbs": [], "nuts": []}
    for name, steps in seen.items():
        folder = tmp_path / name
        at = 30 if name == "gibbs" else 17  # in the second chain
        with pytest.raises(Broken):
            run(name, checkpoint=Checkpoint(folder, 0), callback=broken_at(at))
        run(name, checkpoint=folder, resume=True, callback=lambda p, s=steps: s.append(p.step))
    assert seen["gibbs"][0] == 30
    assert seen["nuts"][0] == 13


@pytest.mark.slow
def test_scales_are_chosen_once(tmp_path, monkeypatch):
    import pyro_pmf.fitting as fitting

    with pytest.raises(Broken):
        run("held-out", checkpoint=Checkpoint(tmp_path, 0), callback=broken_at(3))
    monkeypatch.setattr(fitting, "learnt_scales", None)
    assert len(run("held-out", checkpoint=tmp_path, resume=True).steps) > 10


@pytest.mark.slow
def test_a_guide_of_ones_own_goes_on_from_the_checkpoint(tmp_path):
    """The same module, or another one of its class, as in another process."""
    method = VI(guide=AutoDelta(BIASES), max_steps=20)
    wanted = digest(quick(method=method))
    for k in (0, 1):
        used = replace(method, guide=AutoDelta(BIASES))
        break_off(tmp_path / str(k), method=used)
        fresh = replace(method, guide=AutoDelta(BIASES))
        end = quick(tmp_path / str(k), method=(used, fresh)[k], resume=True)
        assert digest(end) == wanted


@pytest.mark.slow
def test_a_history_and_a_type_go_on(tmp_path):
    options = {
        "model": PMF(1, "hierarchical"),
        "method": Gibbs(n_draws=5, n_warmup=5, thin=1),
        "history": pd.DataFrame({"user": [0, 99], "item": [3, 4]}),
        "dtype": torch.float64,
        "seed": 5,
    }
    break_off(tmp_path, 8, **options)
    end = quick(tmp_path, resume=True, **options)
    assert end.ratings.n_users == 13
    assert digest(end) == digest(quick(**options))


def test_a_model_of_ones_own_goes_on(tmp_path):
    def own(ratings):
        return BIASES(ratings)

    break_off(tmp_path, model=own)
    assert digest(quick(tmp_path, model=own, resume=True)) == digest(quick(model=own))


def test_draws_are_written_once(tmp_path):
    """Each part has the draws since the last one, so writes take no longer as draws add up."""
    method = Gibbs(n_draws=10, n_warmup=2, n_chains=2, thin=1)
    quick(Checkpoint(tmp_path, 0), method=method)
    parts = sorted(tmp_path.glob("draws-*"))
    assert len(parts) == 20
    sizes = [part.stat().st_size for part in parts]
    assert max(sizes) < 1.1 * min(sizes)


def test_nothing_is_written_between_two_times(tmp_path):
    method = Gibbs(n_draws=10, n_warmup=2, n_chains=2, thin=1)
    quick(tmp_path, method=method)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "checkpoint.safetensors",
        "draws-00000.safetensors",
        "draws-00001.safetensors",
    ]


# --- kills ---


def survive(name, folder, n_kills, seed):
    """Kill a fit so many times, and compare each end with the fit that is left in peace."""
    wanted, killed = digest(whole_fit(name)), Killed(name, folder, seed)
    longest = 1.5
    while killed.n_kills < n_kills:
        if killed.attempt(longest):
            assert killed.end() == wanted
            shutil.rmtree(folder)
    if not (folder / "digest").exists():
        assert killed.attempt(None)
    assert killed.end() == wanted
    return killed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("name", ["lbfgs", "gibbs"])
def test_a_fit_survives_kills(tmp_path, name):
    """SIGKILL at random moments, most of them in a write."""
    survive(name, tmp_path / "checkpoint", 4, seed=1)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_fits_survive_a_hundred_kills(tmp_path):
    killed = [survive(name, tmp_path / name, 10, seed=2) for name in FITS]
    assert sum(each.n_kills for each in killed) >= 100
    n_in_a_write = sum(each.n_in_a_write for each in killed)
    assert n_in_a_write > 10, n_in_a_write


# --- refusals ---


def test_an_unfinished_fit_is_not_overwritten(tmp_path):
    break_off(tmp_path)
    with pytest.raises(StorageError, match=r"has not ended: give resume=True"):
        quick(tmp_path)
    assert digest(quick(tmp_path, resume=True)) == digest(quick())


def test_a_finished_fit_makes_room_for_another(tmp_path):
    method = Gibbs(n_draws=6, n_warmup=2, n_chains=3, thin=1)
    quick(tmp_path, method=method)
    assert len(list(tmp_path.glob("draws-*"))) == 3
    other = quick(tmp_path, method=replace(method, n_chains=1))
    assert len(list(tmp_path.glob("draws-*"))) == 1
    assert digest(other) == digest(quick(method=replace(method, n_chains=1)))


def test_resume_begins_where_there_is_nothing(tmp_path):
    assert digest(quick(tmp_path / "a" / "b", resume=True)) == digest(quick())


def changed(column, by) -> Ratings:
    frame = STARS.to_frame()
    frame.loc[0, column] = by(frame.loc[0, column])
    return Ratings.from_frame(frame, scale=STARS.scale)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"method": replace(QUICK, max_steps=21)}, "method.max_steps was 20 and is 21"),
        ({"method": VI(max_steps=20, learn_scales=None)}, "method was MAP and is VI"),
        ({"model": PMF(1)}, r"model was PMF\(n_factors=0.*and is PMF\(n_factors=1"),
        ({"model": replace(BIASES, priors=Priors())}, "model was PMF"),
        ({"dtype": torch.float64}, "dtype was torch.float32 and is torch.float64"),
        ({"ratings": changed("rating", lambda x: 6 - x - 0.5)}, "ratings was"),
        ({"ratings": changed("user", lambda x: 77)}, "ratings was"),
        ({"ratings": STARS.split(0.1)[0]}, "ratings was"),
    ],
    ids=str,
)
def test_another_fit_is_refused(tmp_path, options, named):
    break_off(tmp_path, ratings=STARS)
    options = {"ratings": STARS} | options
    with pytest.raises(StorageError, match=f"is of another fit: .*{named}.*choose another folder"):
        quick(tmp_path, resume=True, **options)
    end = quick(tmp_path, resume=True, ratings=STARS)
    assert digest(end) == digest(quick(ratings=STARS))


def test_another_history_is_refused(tmp_path):
    options = {"model": PMF(1, "hierarchical"), "method": Gibbs(n_draws=5, n_warmup=5, thin=1)}
    break_off(tmp_path, **options, history=pd.DataFrame({"user": [0], "item": [3]}))
    with pytest.raises(StorageError, match="history was"):
        quick(tmp_path, resume=True, **options)


def test_another_version_is_refused(tmp_path, monkeypatch):
    break_off(tmp_path)
    monkeypatch.setattr(module, "version", lambda name: "9.9")
    with pytest.raises(StorageError, match=r"pyro-pmf was .* and is 9\.9; torch was"):
        quick(tmp_path, resume=True)


def test_the_fingerprint_is_the_same_in_another_process():
    """No addresses, for functions, classes and modules; and functions by what they do."""

    def fingerprint(model, method):
        return fingerprint_of(model, RATINGS, method, 0, torch.device("cpu"), None, None)

    def model(ratings):
        return BIASES(ratings)

    first = fingerprint(model, VI(guide=AutoNormal(BIASES)))
    assert "0x" not in repr(first)
    assert first == fingerprint(model, VI(guide=AutoNormal(BIASES)))

    def model(ratings):
        return PMF(1)(ratings)

    assert first["model"] != fingerprint(model, VI())["model"]
    tracked = [Gibbs(track=RATINGS.to_frame().head(n)) for n in (3, 3, 4)]
    a, b, c = (fingerprint(BIASES, method)["method.track"] for method in tracked)
    assert a == b != c


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("damage", ["cut", "empty", "byte"])
def test_a_damaged_state_is_refused(tmp_path, damage, resume):
    break_off(tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    content = file.read_bytes()
    middle = len(content) - 8
    spoilt = {
        "cut": content[:middle],
        "empty": b"",
        "byte": content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :],
    }
    file.write_bytes(spoilt[damage])
    with pytest.raises(StorageError, match=r"is damaged .*delete its folder"):
        quick(tmp_path, resume=resume)


@pytest.mark.parametrize("damage", ["absent", "cut", "other"])
def test_damaged_draws_are_refused(tmp_path, damage):
    method = Gibbs(n_draws=5, n_warmup=2, n_chains=1, thin=1)
    break_off(tmp_path, 6, method=method)
    part, other = (tmp_path / f"draws-0000{k}.safetensors" for k in (0, 1))
    if damage == "absent":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-3])
    else:
        shutil.copy(other, part)
    with pytest.raises(StorageError, match="delete"):
        quick(tmp_path, method=method, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": 3}, "checkpoint must be the path of a folder, not 3"),
        ({"resume": True}, "resume=True needs the folder"),
        ({"checkpoint": "x", "resume": "yes"}, "resume must be True or False"),
    ],
)
def test_arguments_that_are_not_valid(options, message):
    with pytest.raises(FitError, match=message):
        fit(BIASES, RATINGS, QUICK, progress=False, **options)


@pytest.mark.parametrize("every", [-1, float("nan"), float("inf"), "60", True, None])
def test_times_that_are_not_valid(every):
    with pytest.raises(FitError, match="every must be a number of seconds"):
        Checkpoint("x", every)


# --- disks ---


def test_a_folder_that_cannot_be_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"Cannot write a checkpoint .*Choose a folder"):
            quick(path, callback=seen.append)
    assert not seen


def test_a_checkpoint_stays_out_of_a_saved_posterior(tmp_path):
    """Saving there again, with overwrite=True, would be refused after the fit."""
    quick().save(tmp_path / "m.pmf")
    before = sorted((tmp_path / "m.pmf").iterdir())
    for resume in (False, True):
        with pytest.raises(StorageError, match="holds a saved posterior: choose another folder"):
            quick(tmp_path / "m.pmf", resume=resume)
    assert sorted((tmp_path / "m.pmf").iterdir()) == before
    quick().save(tmp_path / "m.pmf", overwrite=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_is_refused_at_the_start(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Cannot write a checkpoint"):
        quick(tmp_path)


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        quick(tmp_path)


@pytest.mark.parametrize(
    "method", [QUICK, Gibbs(n_draws=6, n_warmup=4, n_chains=2, thin=1)], ids=str
)
def test_a_disk_that_fills_up_ends_no_fit(tmp_path, monkeypatch, method):
    """One warning, the last checkpoint is kept, and the fit ends as it would have."""
    fsync = os.fsync

    def fill(progress):
        if progress.step == 8:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.warns(UserWarning, match="Cannot write the checkpoint .*No space") as caught:
        end = quick(Checkpoint(tmp_path, 0), method=method, callback=fill)
    assert len(caught) == 1
    monkeypatch.setattr(os, "fsync", fsync)
    seen = []
    resumed = quick(tmp_path, method=method, resume=True, callback=lambda p: seen.append(p.step))
    assert seen[0] == 8
    assert digest(end) == digest(resumed) == digest(quick(method=method))


def test_a_disk_that_has_room_again_misses_nothing(tmp_path, monkeypatch):
    """Full at the end of the first chain, whose last draws are then written with the second."""
    method, fsync = Gibbs(n_draws=6, n_warmup=4, n_chains=2, thin=1), os.fsync

    def fill(progress):
        if progress.step in (8, 12):
            monkeypatch.setattr(os, "fsync", full if progress.step == 8 else fsync)
        if progress.step == 16:
            raise Broken

    with pytest.warns(UserWarning, match="Cannot write"), pytest.raises(Broken):
        quick(Checkpoint(tmp_path, 0), method=method, callback=fill)
    seen = []
    end = quick(tmp_path, method=method, resume=True, callback=lambda p: seen.append(p.step))
    assert seen[0] == 16
    assert digest(end) == digest(quick(method=method))


# --- Ctrl-C ---


def press_at(step):
    def callback(progress):
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return callback


def interrupt_at(step):
    def callback(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return callback


each_way = pytest.mark.parametrize("ctrl_c", [press_at, interrupt_at])


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("name", ["lbfgs", "batches", "sampled", "map"])
def test_an_interrupted_ascent_returns_its_parameters(tmp_path, name, ctrl_c):
    wanted = []

    def callback(progress):
        if progress.step == 9:
            wanted.append(progress.posterior())
        ctrl_c(9)(progress)

    with pytest.warns(UserWarning, match="interrupted after step 9.*resume=True"):
        posterior = run(name, checkpoint=tmp_path, callback=callback)
    assert not posterior.converged
    assert posterior.steps["step"].tolist() == list(range(1, 10))
    assert all(np.isfinite(posterior.predict(RATINGS)["mean"]))
    assert digest(posterior) == digest(wanted[0])
    assert digest(run(name, checkpoint=tmp_path, resume=True)) == digest(whole_fit(name))


@pytest.mark.slow
@each_way
@pytest.mark.parametrize(
    ("name", "step", "n_draws", "n_chains"),
    [
        ("gibbs", 14, 6, 1),
        ("gibbs", 20, 12, 1),  # at the end of a chain
        ("gibbs", 30, 12, 1),  # 2 draws of the second chain leave fewer than 12 of the first
        ("gibbs", 37, 18, 2),
        pytest.param("nuts", 21, 6, 1, marks=pytest.mark.long),
        pytest.param("nuts", 23, 10, 2, marks=pytest.mark.long),
    ],
)
def test_interrupted_chains_return_their_draws(tmp_path, name, step, n_draws, n_chains, ctrl_c):
    whole = whole_fit(name)
    with pytest.warns(UserWarning, match=rf"{n_draws // n_chains} draws of {n_chains} chain"):
        posterior = run(name, checkpoint=tmp_path, callback=ctrl_c(step))
    assert not posterior.converged
    assert (posterior.n_draws, posterior.n_chains) == (n_draws, n_chains)
    each, longest = n_draws // n_chains, whole.n_draws // 2
    kept = [k * longest + i for k in range(n_chains) for i in range(each)]
    for site, draws in posterior.latents.items():
        assert torch.equal(draws, whole.latents[site][kept])
    steps = whole.steps.iloc[kept].drop(columns=["seconds", "step"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(posterior.steps.drop(columns=["seconds", "step"]), steps)
    assert (posterior.tracked is None) == (name == "nuts")
    assert digest(run(name, checkpoint=tmp_path, resume=True)) == digest(whole)


@pytest.mark.parametrize("step", [2, 7])
def test_chains_without_draws_have_nothing_to_return(tmp_path, step):
    method = Gibbs(n_draws=8, n_warmup=4, n_chains=2, thin=1)
    with pytest.raises(KeyboardInterrupt, match=r"before a chain had 4 draws.*resume=True"):
        quick(tmp_path, method=method, callback=press_at(step))
    seen = []
    end = quick(tmp_path, method=method, resume=True, callback=lambda p: seen.append(p.step))
    assert seen[0] == step + 1
    assert digest(end) == digest(quick(method=method))


def test_an_interruption_at_the_last_step_is_none(tmp_path):
    for method, last in ((QUICK, 20), (Gibbs(n_draws=6, n_warmup=4, n_chains=1, thin=1), 10)):
        assert digest(quick(method=method, callback=press_at(last))) == digest(
            quick(method=method)
        )


@pytest.mark.slow
def test_scales_that_are_being_chosen_are_no_result(monkeypatch):
    import pyro_pmf.fitting as fitting

    crps = fitting.crps

    def pressed(*args):
        signal.raise_signal(signal.SIGINT)
        return crps(*args)

    monkeypatch.setattr(fitting, "crps", pressed)
    with pytest.raises(KeyboardInterrupt):
        run("held-out")
