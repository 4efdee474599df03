"""Test the arithmetic and the report of the benchmarks, without the packages of others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks is no part of the package

from benchmarks.compare import pool, rmse_difference, seconds_to_reach
from benchmarks.data import DATA, Table, split
from benchmarks.methods import LIBRARIES, METHODS, MYFM_BOTH, MYFM_IDS, REFERENCE
from benchmarks.peers import article, ours
from benchmarks.plot import draw
from benchmarks.predictor import Predictor, Stopwatch, rmse
from benchmarks.report import claims, group, render

TABLE = Table(
    user=np.array([0, 0, 1, 1, 2, 2, 2]),
    item=np.array([0, 1, 1, 2, 0, 2, 3]),
    rating=np.array([5.0, 3.0, 4.0, 1.0, 2.0, 5.0, 4.0]),
    n_users=3,
    n_items=4,
    scale=(1.0, 5.0),
)


def run(method, seed=0, rmse=0.9, seconds=2.0, curve=None, behind=0.01, data="films"):
    """Return a result as of `benchmarks.one`, with the comparison."""
    return {
        "method": method,
        "data": data,
        "seed": seed,
        "n_train": 900,
        "n_test": 100,
        "n_users": 30,
        "n_items": 50,
        "n_unknown": 2,
        "rmse": rmse,
        "mae": 0.7,
        "nll": 1.2,
        "fit_seconds": seconds,
        "predictions_per_second": 12345.6,
        "peak_mib": 500.0,
        "fit_mib": 40.0,
        "curve": curve or [[seconds, rmse]],
        "against_reference": [behind, 0.003],
    }


def results(runs):
    return {
        "command": "python -m benchmarks",
        "date": "2026-01-01",
        "machine": {"processor": "one"},
        "versions": {"numpy": "2"},
        "import_seconds": {"torch": 1.5},
        "runs": runs,
    }


class Constant(Predictor):
    def mean(self, pairs):
        return np.full(len(pairs), 9.0)


def test_split_indexes_both_sides_by_the_training_side():
    train, test = split("insteval", seed=1, sample=500)
    assert len(train) == 450
    assert len(test) == 50
    assert set(train.user) == set(range(train.n_users))
    assert set(train.item) == set(range(train.n_items))
    assert test.user.min() == -1  # with so few ratings some are unknown
    assert test.user.max() < train.n_users
    known = DATA["insteval"][0]().sample(500, random_state=1)["rating"].sum()
    assert train.rating.sum() + test.rating.sum() == known


def test_first_point_at_or_below_the_target():
    curve = [(1.0, 1.2), (2.0, 0.9), (3.0, 0.95), (4.0, 0.8)]
    assert seconds_to_reach(curve, 0.9) == 2.0
    assert seconds_to_reach(curve, 0.85) == 4.0
    assert seconds_to_reach(curve, 0.7) is None
    assert seconds_to_reach([], 0.7) is None


def test_difference_of_rmse_has_the_error_of_the_bootstrap_over_users():
    """200 users of 10 ratings each, and an error of each user that both methods do not share."""
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 10)
    rating = generator.normal(size=2000)
    ours = rating + generator.normal(scale=0.9, size=2000)
    theirs = ours + generator.normal(scale=0.3, size=2000) + generator.normal(size=200)[user]
    difference, error = rmse_difference(rating, ours, theirs, user)
    squares = np.stack([(rating - ours) ** 2, (rating - theirs) ** 2])
    chosen = generator.integers(200, size=(2000, 200))
    by_user = squares.reshape(2, 200, 10).mean(-1)
    bootstrap = np.diff(np.sqrt(by_user[:, chosen].mean(-1)), axis=0)[0]
    assert difference == pytest.approx(np.diff(np.sqrt(squares.mean(1)))[0])
    assert error == pytest.approx(bootstrap.std(), rel=0.1)


def test_pooled_over_seeds():
    assert pool([(1.0, 0.3), (2.0, 0.4)]) == pytest.approx((1.5, 0.25))


def test_clock_stands_still_while_progress_is_looked_at():
    watch = Stopwatch(TABLE, recording=True)
    watch.start()

    class Slow(Constant):
        def mean(self, pairs):
            torch.linalg.eigvalsh(torch.eye(200))
            assert watch._since is None
            return super().mean(pairs)

    watch.look(Slow())
    assert watch._since is not None
    total = watch.stop()
    assert watch.stop() == total
    ((seconds, error),) = watch.curve
    assert seconds <= total
    assert error == rmse(TABLE, np.full(len(TABLE), 5.0))  # clipped to the scale


def test_clock_that_does_not_record_asks_nothing():
    watch = Stopwatch(TABLE, recording=False)
    watch.start()
    watch.look(None)
    assert watch.curve == []


def test_dense_objective_of_the_article():
    generator = torch.Generator().manual_seed(0)
    R, U, V = (
        torch.rand(size, generator=generator, dtype=torch.float64)
        for size in [(3, 4), (3, 2), (4, 2)]
    )
    observed = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.float64)
    expected = 0.3 * float((U**2).sum()) + 0.7 * float((V**2).sum())
    for i, j in observed.nonzero().tolist():
        expected += (float(R[i, j]) - 1 / (1 + np.exp(-float(U[i] @ V[j])))) ** 2
    assert float(article.objective(R, observed, U, V, 0.3, 0.7)) == pytest.approx(expected)


@pytest.mark.slow
def test_article_learns_and_gives_unknown_ids_the_global_mean():
    watch = Stopwatch(TABLE, recording=True)
    watch.start()
    options = {"sigma": 0.05, "sigma_U": 1.0, "sigma_V": 1.0}
    fitted = article.fit(TABLE, 0, watch, 2, epochs=200, learning_rate=0.1, **options)
    assert len(watch.curve) == 20
    assert rmse(TABLE, fitted.mean(TABLE)) < 0.5
    unknown = Table(np.array([-1, 0]), np.array([0, -1]), np.zeros(2), 3, 4, (1.0, 5.0))
    assert fitted.mean(unknown) == pytest.approx(TABLE.rating.mean())


@pytest.mark.slow
def test_ours_predicts_by_the_same_indices():
    watch = Stopwatch(TABLE, recording=False)
    fitted = ours.fit(TABLE, 0, watch, n_factors=1)
    pairs = Table(np.array([2, -1]), np.array([1, 1]), np.array([3.0, 3.0]), 3, 4, (1.0, 5.0))
    assert fitted.mean(pairs).shape == (2,)
    assert np.isfinite(fitted.log_density(pairs)).all()


@pytest.mark.parametrize("histories", [(False, False), (True, False), (True, True)])
def test_features_of_factorization_machines(histories):
    pytest.importorskip("myfm", exc_type=ImportError)
    from benchmarks.peers.myfm_gibbs import Features

    features = Features(TABLE, *histories)
    x, relations = features.of(TABLE)
    assert x.shape[0] == len(TABLE)
    assert [block.shape[0] for block in features.blocks] == ([4, 5] if relations else [])
    widths = x.shape[1] + sum(block.shape[1] for block in features.blocks)
    assert widths == sum(features.group_shapes)
    if histories[0]:
        user = features.blocks[0].toarray()
        assert user[2].tolist() == pytest.approx([0, 0, 1, *(np.array([1, 0, 1, 1]) / 3**0.5)])
        assert not user[3].any()  # unknown users
    if histories[1]:
        item = features.blocks[1].toarray()
        assert item[0].tolist() == pytest.approx([1, 0, 0, 0, *(np.array([1, 0, 1]) / 2**0.5)])


def test_report_says_who_is_ahead_and_when():
    curve = [[0.1, 1.1], [0.5, 0.9], [3.0, 0.88]]
    runs = [
        run(REFERENCE, seed, rmse=0.88, seconds=3.0, curve=curve, behind=0) for seed in range(2)
    ]
    runs += [run(MYFM_IDS, seed, rmse=0.9, seconds=2.5, behind=0.02) for seed in range(2)]
    runs += [run(MYFM_BOTH, rmse=0.87, seconds=9.0, behind=-0.01)]
    runs += [{"method": "cornac-mf", "data": "films", "seed": 0, "error": "no luck"}]
    text = render(results(runs))
    assert "| myFM, ids only | 2 | 0.9000 ± 0.0000 | +0.0200 ± 0.0021 |" in text
    assert "| 2.50 | 0.50 | 12,346 | 40 |" in text
    assert "| myFM, both blocks | 1 | 0.8700 | -0.0100 ± 0.0030 |" in text
    assert "| 9.00 | never |" in text
    assert (
        "reaches the final RMSE of myFM, ids only (0.9000) in 0.50 s, 1/5.0 of its 2.50 s." in text
    )
    assert "is 0.0100 ± 0.0030 higher. Its fit takes 3.00 s, the other 9.00 s." in text
    assert "- cornac MF, seed 0: no luck" in text


def test_claims_choose_the_best_of_each_package():
    runs = [run(REFERENCE, behind=0), run("surprise-svd", rmse=0.95), run("surprise-svdpp")]
    (line,) = claims(group(runs))
    assert "Surprise SVD++, the best of its package here" in line


def test_never_reached_is_said():
    runs = [run(REFERENCE, rmse=0.95), run(MYFM_IDS, rmse=0.9)]
    assert "does not reach" in claims(group(runs))[0]


def test_report_without_any_fit():
    text = render(results([{"method": REFERENCE, "data": "films", "seed": 0, "error": "no luck"}]))
    assert "Nothing was fitted." in text


@pytest.mark.slow
def test_results_survive_json_and_are_drawn(tmp_path):
    runs = [run(method.key, curve=[[1.0, 1.5], [2.0, 0.9]]) for method in METHODS]
    again = json.loads(json.dumps(results(runs)))
    assert render(again) == render(results(runs))
    draw(again, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_keys_are_unique_and_libraries_have_methods():
    assert len({method.key for method in METHODS}) == len(METHODS)
    assert len({method.name for method in METHODS}) == len(METHODS)
    for library in LIBRARIES:
        assert any(method.name.startswith(library) for method in METHODS)
