"""Models with ratings that they make."""

from __future__ import annotations

import pytest
from configurations import MODELS
from joint import table

from pyro_pmf import PMF
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs import initial
from pyro_pmf.model.running import sites_of


@pytest.fixture
def data(request, monkeypatch) -> tuple[PMF, Pairs, Pairs]:
    """Return a model, ratings that it makes, and the pairs with I_ij = 1.

    A process of a shared chain begins with the level of all ratings, not with that of its own.
    """
    name = request.param
    model, history = MODELS[name], table(share=0.8)
    value = sites_of(model, table(), history=history)["rating"]["value"].double()
    ratings = table(value=value)
    level = initial._level(model, value)
    monkeypatch.setattr(initial, "_level", lambda *_: level)
    return model, ratings, history if "history" in name else ratings
