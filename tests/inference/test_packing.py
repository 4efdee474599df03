"""States as files: the same again, whole or refused."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pyro_pmf import StorageError, files
from pyro_pmf.inference.packing import filled, read_packed, write_packed


@dataclass
class Inner:
    pairs: deque = field(default_factory=lambda: deque(maxlen=2))
    x: float = 0.0


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    losses: list = field(default_factory=list)


TREE = {
    "none": None,
    "yes": True,
    "float": 0.1 + 0.2,
    "infinite": float("inf"),
    "huge": 2**127 + 1,  # as in the state of NumPy's generators
    "list": [1, [2.5, "a"], {}],
    "tuple": (3, (1, 2), None),
    "single": torch.tensor([1.5, -0.0]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "column": torch.arange(6.0).reshape(2, 3)[:, 1],
    "array": np.arange(4, dtype=np.uint32),
}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_a_tree_comes_back(tmp_path):
    wrote = write_packed(tmp_path / "tree", TREE)
    tree, read = read_packed(tmp_path / "tree")
    assert wrote == read
    assert_same(tree, TREE)
    assert [file.name for file in tmp_path.iterdir()] == ["tree"]


def test_expanded_and_shared_tensors_come_back(tmp_path):
    x = torch.arange(3.0)
    write_packed(tmp_path / "tree", {"a": x, "b": x, "c": x.expand(2, 3)})
    tree, _ = read_packed(tmp_path / "tree")
    assert all(torch.equal(tree[name], x) for name in "ab")
    assert tree["c"].tolist() == [[0, 1, 2]] * 2
    tree["a"] += 1
    assert torch.equal(tree["b"], x)


def test_dataclasses_and_deques_come_back_in_their_classes(tmp_path):
    pairs = deque([(torch.ones(1), 1), (torch.zeros(1), 2)], maxlen=2)
    write_packed(tmp_path / "tree", Outer(Inner(pairs, 0.5), [1.0]))
    outer = filled(Outer(), read_packed(tmp_path / "tree")[0])
    assert isinstance(outer, Outer)
    assert isinstance(outer.inner, Inner)
    assert outer.inner.pairs.maxlen == 2
    assert_same(list(outer.inner.pairs), list(pairs))
    assert (outer.inner.x, outer.losses) == (0.5, [1.0])


@pytest.mark.slow
def test_no_damage_of_a_byte_or_of_the_length_goes_unnoticed(tmp_path):
    """Any byte that changes, any length: an error, or (a blank of the header) the same tree."""
    path = tmp_path / "tree"
    tree = {"x": torch.arange(3.0), "y": [1, 2.5], "z": np.arange(2)}
    write_packed(path, tree)
    whole = path.read_bytes()
    for k in range(len(whole)):
        path.write_bytes(whole[:k])
        with pytest.raises(StorageError, match="damaged"):
            read_packed(path)
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :])
        try:
            assert_same(read_packed(path)[0], tree)
        except StorageError as error:
            assert "damaged" in str(error)  # noqa: PT017
    path.write_bytes(whole + b"0")
    with pytest.raises(StorageError, match="damaged"):
        read_packed(path)


def test_what_is_not_a_tree_is_refused(tmp_path):
    for content in (b"", b"{}", json.dumps({"a": 1}).encode(), os.urandom(2000)):
        (tmp_path / "tree").write_bytes(content)
        with pytest.raises(StorageError, match="is damaged"):
            read_packed(tmp_path / "tree")
    with pytest.raises(StorageError):
        read_packed(tmp_path / "absent")


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    """And nothing that takes room on a full disk."""
    path = tmp_path / "tree"
    write_packed(path, {"x": 1})

    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(files, "open", fail, raising=False)
        else:
            patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space"):
            write_packed(path, {"x": 2})
    assert read_packed(path)[0] == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["tree"]
