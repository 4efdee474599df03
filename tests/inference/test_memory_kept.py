"""Settings of the C library around a long fit."""

import ctypes
import platform
from contextlib import nullcontext

import pytest
import torch

from pyro_pmf.inference import memory
from pyro_pmf.inference.memory import freed_memory_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
SIZE = 1 << 24  # 64 MB


def n_maps() -> int:
    """Return the number of arrays that have pages of their own; the fourth entry of mallinfo2."""

    class Mallinfo(ctypes.Structure):
        _fields_ = [(f"entry_{k}", ctypes.c_size_t) for k in range(10)]

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("a glibc before 2.33")
    libc.mallinfo2.restype = Mallinfo
    return int(libc.mallinfo2().entry_3)


@glibc
@pytest.mark.parametrize("fails", [False, True])
def test_large_arrays_have_pages_of_their_own_again_after_the_block(fails):
    kept = []
    with pytest.raises(RuntimeError) if fails else nullcontext(), freed_memory_kept(10**7):
        before = n_maps()
        kept.append(torch.zeros(SIZE))
        assert n_maps() == before
        if fails:
            raise RuntimeError
    before = n_maps()
    kept.append(torch.zeros(SIZE))
    assert n_maps() == before + 1
    assert not any(x.any() for x in kept)


def test_small_fits_leave_the_settings_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    with freed_memory_kept(10**5):
        pass


def test_other_systems_have_nothing_to_set(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    with freed_memory_kept(10**7):
        pass
