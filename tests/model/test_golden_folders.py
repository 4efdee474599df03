"""Folders that were saved once, in each format, predict what they predicted then."""

import json
import math

import pandas as pd
import pytest
from fuzz.folders import FOLDERS, GOLDEN
from golden.make import FRAME, HISTORY, PAIRS, predicted

from pyro_pmf import PMF, NegativeBinomialLog, OrderedLogit, load
from pyro_pmf.model.learned import Converged

N_KNOWN = 2  # of PAIRS; draws of unknown ids come from a seed, and may be other ones


@pytest.mark.parametrize("name", FOLDERS)
def test_they_predict_what_they_did(name):
    then = json.loads((GOLDEN / f"{name}.json").read_text())
    posterior = load(GOLDEN / name)
    now = predicted(posterior)
    n = N_KNOWN if posterior.n_draws else len(PAIRS)
    for column, numbers in then.items():
        assert now[column][:n] == pytest.approx(numbers[:n], rel=1e-4)


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_everything_of_a_closed_form_comes_back(number):
    posterior = load(GOLDEN / f"format-{number}-vi")
    assert posterior.model.users == "hierarchical"
    assert posterior.model.noise == "item"
    assert (posterior.n_draws, posterior.n_chains) == (None, None)
    table = posterior.ratings.to_frame()
    pd.testing.assert_frame_equal(table, FRAME, check_dtype=False)
    assert posterior.ratings.item_ids.tolist() == [7, 8, 9, 10]
    assert len(posterior.history) == len(FRAME) + len(HISTORY)
    assert posterior.ratings.scale == (1.0, 5.0)
    assert posterior.ratings.recorded.scale_given
    assert len(posterior.steps) == 20
    assert posterior.converged == Converged(predictions=False, parameters=False)


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_everything_of_draws_comes_back(number):
    posterior = load(GOLDEN / f"format-{number}-draws")
    means = number > 5
    assert posterior.model == PMF(1, noise="shared", means=means, likelihood=OrderedLogit(5))
    assert (posterior.n_draws, posterior.n_chains) == (8, 2)
    assert posterior.steps["chain"].tolist() == [0] * 4 + [1] * 4
    assert posterior.latents["U"].shape == (8, 4, 1)
    assert posterior.history is None
    assert posterior.ratings.time is None
    assert len(posterior.predict(PAIRS)) == len(PAIRS)


@pytest.mark.parametrize(("number", "ceiling"), [(4, math.inf), (5, 50.0), (6, 50.0)])
def test_counts_come_back_with_their_ceiling(number, ceiling, tmp_path):
    """Of the largest count, 5; before format 5 there was none. Both can be saved again."""
    posterior = load(GOLDEN / f"format-{number}-counts")
    assert posterior.model.likelihood == NegativeBinomialLog(ceiling=ceiling)
    posterior.save(tmp_path / "m.pmf")
    assert load(tmp_path / "m.pmf").model == posterior.model


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_again_they_are_the_same(name, tmp_path):
    load(GOLDEN / name).save(tmp_path / "m.pmf")
    assert predicted(load(tmp_path / "m.pmf")) == predicted(load(GOLDEN / name))
    header = json.loads((tmp_path / "m.pmf" / "posterior.json").read_text())
    assert header["format"] == 6
