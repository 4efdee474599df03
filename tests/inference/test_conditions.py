"""The conditions of a fit: its clock and its device."""

import time

import pytest
import torch

from pyro_pmf import FitError
from pyro_pmf.inference.conditions import Conditions, as_device


def test_seconds_are_those_since_the_fit_began():
    before = time.perf_counter()
    run = Conditions(0, torch.device("cpu"), None, progress=False)
    first, second = run.seconds, run.seconds
    assert 0 <= first <= second <= time.perf_counter() - before
    earlier = Conditions(0, torch.device("cpu"), None, progress=False, started=before - 100)
    assert 100 <= earlier.seconds < 101
    assert run.on_step is None


@pytest.mark.parametrize("found", [False, True])
def test_auto_is_a_gpu_if_there_is_one(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    assert as_device("auto") == torch.device("cuda" if found else "cpu")
    assert as_device("cpu") == as_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FitError, match=f"device='{device}' needs a GPU, and torch finds none"):
        as_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert as_device(device) == torch.device(device)


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x"])
def test_a_device_that_torch_does_not_know_is_an_error(device):
    with pytest.raises(FitError, match='device must be "auto", "cpu" or "cuda", not '):
        as_device(device)
