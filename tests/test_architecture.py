"""The law of imports, the size of files and functions, and what `import pyro_pmf` offers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pyro_pmf

PACKAGE = Path(pyro_pmf.__file__).parent

# Each room may import from itself and from these; `inference` and `prediction` not each other.
SHARED = {"errors", "arguments", "isolation", "random_state", "internals", "files", "reducer"}
MODEL = {"data", "moments", "model"}
MAY_IMPORT = {
    "errors": set(),
    "arguments": {"errors"},
    "isolation": {"internals"},
    "random_state": {"errors", "arguments", "isolation", "internals"},
    "internals": set(),
    "files": set(),
    "reducer": {"errors"},
    "data": SHARED,
    "moments": SHARED | {"data"},
    "model": SHARED | {"data", "moments"},
    "datasets": SHARED | MODEL,
    "inference": SHARED | MODEL,
    "prediction": SHARED | MODEL,
    "posterior": SHARED | MODEL | {"prediction", "folding"},
    "sanity": SHARED | MODEL | {"prediction"},
    "folding": SHARED | MODEL | {"inference"},
    "fitting": SHARED | MODEL | {"prediction", "inference", "posterior", "sanity"},
    "criticism": SHARED | MODEL | {"prediction", "inference", "posterior", "fitting"},
    "cli": SHARED | MODEL | {"prediction", "posterior", "fitting", "criticism"},
    "__init__": SHARED | MODEL | {"prediction", "inference", "posterior", "fitting"},
}
WITHIN_INFERENCE = {
    "inference.variational": {"inference.variational", "inference"},
    "inference.mcmc": {"inference.mcmc", "inference"},
    "inference": {"inference"},
}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    """Return the dotted name of a file below the package, such as inference.scales."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(source: str) -> list[str]:
    """Return the modules of this package that a source imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [n.removeprefix("pyro_pmf.") for n in names if n.split(".")[0] == "pyro_pmf"]
    return found


def faults(module: str, source: str) -> list[str]:
    """Return the imports of a module that go against the law."""
    room = module.split(".")[0]
    return [
        name
        for name in imports_of(source)
        if (there := name.split(".")[0]) != room and there not in MAY_IMPORT[room]
    ]


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_imports_go_downwards_only(file):
    assert faults(module_of(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("prediction.tables", "from pyro_pmf.inference.scales import factor_scales"),
        ("inference.scales", "def f():\n    from pyro_pmf.prediction.tables import crps"),
        ("inference.variational.loop", "import pyro_pmf.posterior"),
        ("data.pairs", "from pyro_pmf.moments import bilinear"),
        ("model.pmf", "from pyro_pmf import fit"),
    ],
)
def test_the_law_is_enforced(module, source):
    """Each of these breaks it: sideways, lazily, upwards, by a package, through the front door."""
    assert faults(module, source)


def test_both_kinds_of_inference_stand_side_by_side():
    """Variational inference and Markov chains share what lies in `inference`, and no more."""
    for file in files():
        module = module_of(file)
        if not module.startswith("inference"):
            continue
        here = ".".join(module.split(".")[: 2 if module.count(".") else 1])
        home = here if here in WITHIN_INFERENCE else "inference"
        for name in imports_of(file.read_text()):
            there = next((r for r in WITHIN_INFERENCE if name.startswith(f"{r}.")), None)
            assert there is None or there in WITHIN_INFERENCE[home], f"{module} imports {name}"


def test_every_room_is_in_the_law():
    rooms = {module_of(file).split(".")[0] for file in files()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_files_and_functions_can_be_held_in_the_head(file):
    """At most 400 lines a file, and 60 a function, docstrings not counted.

    Docstrings are the reference of the public functions; a longer one is no harder to hold.
    """
    source = file.read_text()
    documented = [ast.Module, ast.ClassDef, ast.FunctionDef]
    docstrings = [
        node.body[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, tuple(documented)) and ast.get_docstring(node) is not None
    ]
    n_documentation = sum((d.end_lineno or 0) - d.lineno + 1 for d in docstrings)
    assert len(source.splitlines()) - n_documentation <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None
            first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 60, node.name


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_terms_are_asked_and_not_spelled(file):
    """Only `model` and the examples in docstrings know the sites of the terms by name."""
    module = module_of(file)
    if module.split(".")[0] == "model":
        return
    spelled = {f"sigma_{site}" for site in "UVWZbcst"} | set("UVWZ")  # b, c, s, t mean more
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in spelled, f"{module}, line {node.lineno}"


PUBLIC = """
    MAP NUTS PMF VI BernoulliLogit Checkpoint FactorHalfNormal FitError Fixed Gibbs HalfNormal
    Likelihood LogNormal NegativeBinomialLog Normal NormalIdentity NormalSigmoid OrderedLogit
    PMFError Posterior Priors Progress Ratings RatingsError StorageError __version__ fit load
"""


def test_public_names():
    assert sorted(pyro_pmf.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(pyro_pmf, name) for name in pyro_pmf.__all__)


def test_version():
    major, minor, patch = pyro_pmf.__version__.split(".")[:3]
    assert (int(major), int(minor)) >= (0, 1)
    assert patch[0].isdigit()


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            "criticism",
            "compare cross_validate evaluate_ranking loo plot_loo_pit plot_ppc prior_sensitivity",
        ),
        ("datasets", "insteval lastfm_hetrec movielens simulate"),
        ("data", "read_table with_sampled_negatives"),
        (
            "criticism.plots",
            "BLUE GREEN ORANGE PURPLE SKY VERMILLION plot_calibration plot_elbo plot_error_by_sd "
            "plot_factor_norms plot_pit plot_scales plot_user",
        ),
    ],
)
def test_public_names_of_packages(package, names):
    module = __import__(f"pyro_pmf.{package}", fromlist=["__all__"])
    assert sorted(module.__all__) == sorted(names.split())


def test_fit_has_few_parameters():
    """The options of one inference are in its method, so `fit` has only what all share."""
    import inspect

    assert len(inspect.signature(pyro_pmf.fit).parameters) <= 12
