"""The private names of torch and Pyro are there: a new version may drop one."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC
from pyro.infer.autoguide import AutoNormal
from pyro.infer.mcmc.adaptation import WarmupAdapter
from pyro.infer.reparam import LocScaleReparam

from pyro_pmf import internals


def found(path: str) -> Any:
    """Return what a dotted path leads to; raise AttributeError where it ends."""
    parts = path.split(".")
    for k in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:k]))
        except ImportError:
            continue
        return functools.reduce(getattr, parts[k:], module)
    raise AttributeError(path)


@pytest.mark.parametrize("path", internals.PRIVATE_NAMES)
def test_private_name(path):
    purpose = internals.PRIVATE_NAMES[path]
    try:
        found(path)
    except AttributeError:
        pytest.fail(
            f"{path} is gone in torch {torch.__version__} with Pyro {pyro.__version__}. "
            f"pyro_pmf uses it in internals.py: it {purpose}."
        )


def model() -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("name", internals.GUIDE_ATTRIBUTES)
def test_private_attribute_of_a_guide(name):
    guide = AutoNormal(model)
    guide()
    assert hasattr(guide, name), f"AutoNormal of Pyro {pyro.__version__} has no {name}"


@pytest.mark.parametrize("name", internals.KERNEL_ATTRIBUTES)
def test_private_attribute_of_a_kernel(name):
    kernel = HMC(potential_fn=lambda at: at["z"].square().sum())
    assert hasattr(kernel, name), f"HMC of Pyro {pyro.__version__} has no {name}"


@pytest.mark.parametrize("name", internals.ADAPTER_ATTRIBUTES)
def test_private_attribute_of_an_adapter(name):
    assert hasattr(WarmupAdapter(), name), f"WarmupAdapter of Pyro {pyro.__version__}: no {name}"


def test_pyro_marks_what_it_has_reparametrized():
    reparametrized = pyro.poutine.reparam(model, {"x": LocScaleReparam()})
    site = pyro.poutine.trace(reparametrized).get_trace().nodes["x"]
    assert internals.is_reparametrized(site["fn"])
    assert not internals.is_reparametrized(dist.Normal(0.0, 1.0))


def test_storage():
    x = torch.zeros(4)
    assert internals.storage_id(x) == internals.storage_id(x[2:])
    assert internals.storage_id(x) != internals.storage_id(x.clone())


def test_written_arguments():
    add, add_ = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor
    x, y = torch.zeros(2), torch.ones(2)
    assert not internals.is_mutable(add)
    assert internals.is_mutable(add_)
    assert list(internals.written_arguments(add, (x, y), {})) == []
    (written,) = internals.written_arguments(add_, (x, y), {})
    assert written is x


def test_private_names_stay_in_one_file():
    """No other file reaches for a private name of another package's object."""
    import ast
    from pathlib import Path

    allowed = {"_fields", "_replace"}  # of named tuples, which document them
    for file in Path(internals.__file__).parent.rglob("*.py"):
        if file.name == "internals.py":
            continue
        tree = ast.parse(file.read_text())
        own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        own |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_self(n)}
        for node in ast.walk(tree):
            private = isinstance(node, ast.Attribute) and node.attr.startswith("_")
            if private and not node.attr.startswith("__") and not _is_self(node):
                assert node.attr in own | allowed, f"{file.name}:{node.lineno} {node.attr}"


def _is_self(node: Any) -> bool:
    return isinstance(node.value, __import__("ast").Name) and node.value.id in ("self", "cls")
