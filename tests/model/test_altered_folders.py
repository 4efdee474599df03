"""Damage of any byte is refused, and so is a folder that was altered and signed again."""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from fuzz.folders import (
    GOLDEN,
    change_header,
    change_table,
    change_tensors,
    contents,
    sign,
)

from pyro_pmf import StorageError, load

NAN = float("nan")


@pytest.fixture(params=["vi", "draws"])
def folder(request, tmp_path):
    """A golden folder: of a hierarchical model with a history, or of levels and two chains."""
    return copied(request.param, tmp_path)


def copied(name, tmp_path):
    shutil.copytree(GOLDEN / f"format-6-{name}", tmp_path / "m.pmf")
    return tmp_path / "m.pmf"


def refused(folder, match="damaged or was altered"):
    with pytest.raises(StorageError, match=match):
        load(folder)


def some_of(whole, n):
    """Return n places in a file, the same in each run: both ends, and others at random."""
    if n is None or len(whole) <= n:
        return range(len(whole))
    ends = {0, 1, len(whole) - 2, len(whole) - 1}
    inner = np.random.default_rng(len(whole)).choice(len(whole), n - len(ends), replace=False)
    return sorted(ends.union(inner.tolist()))


# Of each file; all of them take twenty times as long.
each_number = pytest.mark.parametrize(
    "n", [pytest.param(60), pytest.param(None, marks=pytest.mark.long)], ids=["60", "all"]
)


@pytest.mark.slow
@each_number
def test_no_byte_can_change(folder, n):
    """Of 60 bytes a file: a file of which a tenth is not looked at is found in 997 of 1,000."""
    for name, whole in contents(folder).items():
        for k in some_of(whole, n):
            spoilt = bytes([whole[k] ^ (1 << k % 8)])
            (folder / name).write_bytes(whole[:k] + spoilt + whole[k + 1 :])
            refused(folder, match=None)
        (folder / name).write_bytes(whole)
    load(folder)


@pytest.mark.slow
@each_number
def test_no_length_can_change(folder, n):
    """To 60 lengths of each file, among them none and one byte less; and to more."""
    for name, whole in contents(folder).items():
        for k in some_of(whole, n):
            (folder / name).write_bytes(whole[:k])
            refused(folder, match=None)
        for more in (b"\0", b"\n", b" ", whole):
            (folder / name).write_bytes(whole + more)
            refused(folder)
        (folder / name).unlink()
        refused(folder, match=f"lacks.*{name}")
        (folder / name).write_bytes(whole)
    load(folder)


def test_a_blank_that_means_nothing_is_a_change_too(folder):
    text = (folder / "posterior.json").read_text()
    (folder / "posterior.json").write_text(text.replace("  ", "\t", 1))
    refused(folder, match=r"posterior\.json is not what was saved")


def test_signed_again_it_is_the_same_folder(folder):
    before = contents(folder)
    sign(folder)
    assert contents(folder) == before
    change_header(folder, lambda header: None)  # the same entries, without line breaks
    load(folder)


def entry(path, value):
    """Return a change of one entry of the header; an absent value deletes it."""

    def change(header):
        *inside, name = path.split(".")
        for key in inside:
            header = header[key]
        if value is ...:
            del header[name]
        else:
            header[name] = value

    return change


# By entry of the header: values that contradict the other parts of either folder.
BOTH = {
    "format": ["5", 5.0, True, None, 0, 1, 7, 3, 2, ...],
    "versions": [..., None, {"pyro-pmf": 1}, []],
    "versions.torch": [None, 2, ""],
    "n_rows": [None, {}, ...],
    "n_rows.users": [3, 6, "4", 4.0, None, ...],
    "n_rows.steps": [0, True, ...],
    "n_rows.more": [1],
    "model.n_factors": [0, 2, 3, 1.0, "1", True, None, -1, 10**9, ...],
    "model.users": ["dependent", None, 1, ["independent"], ...],
    "model.items": ["hierarchical", True, ...],
    "model.biases": ["user", "item", False, "both", None, 1, ...],
    "model.divisor": ["none", None, ...],
    "model.means": [False, None, 1, "yes", ...],
    "model.noise": ["user", "user_and_item", None, ...],
    "model.priors": [{}, None, [], ...],
    "model.priors.tau": [{"family": "Fixed", "value": 1.0}, None, ...],
    "model.priors.sigma_U": [
        {"family": "Fixed", "value": 0.3},
        {"family": "HalfNormal", "scale": -1.0},
        {"family": "HalfNormal", "scale": "1"},
        {"family": "HalfNormal", "scale": True},
        {"family": "HalfNormal", "scale": NAN},
        {"family": "HalfNormal"},
        {"family": "Cauchy", "scale": 1.0},
        {"family": "Normal", "loc": 0.0, "scale": 1.0},
        {"family": "HalfNormal", "scale": 1.0, "more": 1.0},
        ...,
    ],
    "model.likelihood": [
        {"family": "BernoulliLogit"},
        {"family": "NegativeBinomialLog"},
        {"family": "OrderedLogit", "n_levels": 4},
        {"family": "OrderedLogit", "n_levels": 10**9},
        {"family": "StudentT"},
        {},
        None,
        ...,
    ],
    "model.more": [1],
    "latents": [{}, None, [], ...],
    "latents.U": ["LogGaussian", "Draws", None, 1, ...],
    "latents.sigma_b": ["Gaussian", ...],
    "latents.Z": ["Tensor", "Gaussian"],
    "n_draws": [4, "8", 8.0, 0, -8, True, ...],
    "n_chains": [3, 5, "2", 2.0, 0, -1, True, 10**9, ...],
    "converged": ["no", None, True, {}, ...],
    "converged.predictions": ["no", 0, 1, None, ...],
    "converged.parameters": ["false", None, ...],
    "converged.more": [True],
    "history": ["no", None, 1, ...],
    "ratings": [None, [], {}, ...],
    "ratings.scale": [
        [5.0, 1.0],
        [1.0, 1.0],
        [1.0],
        [1.0, 5.0, 9.0],
        [1.0, 6.0],
        [0.0, 5.0],
        ["1", "5"],
        [1.0, NAN],
        None,
        15,
        ...,
    ],
    "ratings.transform": [
        {"family": "Affine", "origin": 1.0, "width": 4.0, "bounds": [1.0, 6.0]},
        {"family": "Affine", "origin": 1.0, "width": 4.0, "bounds": [5.0, 1.0]},
        {"family": "Affine", "origin": 1.0, "width": -4.0, "bounds": None},
        {"family": "Affine", "origin": 1.0, "width": 0.0, "bounds": None},
        {"family": "Affine", "origin": 1.0, "width": 4.0},
        {"family": "Log1p", "log_mean": 1.0, "log_sd": -1.0},
        {"family": "Log1p", "log_mean": NAN, "log_sd": 1.0},
        {"family": "Transform"},
        {},
        None,
        ...,
    ],
    "ratings.transform.origin": [0.0, "1", True, None, ...],
    "ratings.transform.width": [5.0, NAN, ...],
    "ratings.recorded": [None, {}, {"gap": 1.0}, ...],
    "ratings.recorded.gap": [-1.0, 0.0, 4.5, 1e300, "1", NAN, True, ...],
    "ratings.recorded.scale_given": ["yes", 1, None, ...],
    "ratings.dtype": ["float64", "float16", "int64", "load", None, 32, ...],
    "ratings.values": [False, "yes", 1, None, ...],
    "ratings.time": ["yes", 1, None, ...],
    "ratings.more": [1],
    "more": [1],
}
# Of one folder only: there they contradict the other parts.
OF = {
    "vi": {
        "model.users": ["independent"],
        "model.noise": ["shared"],
        "model.likelihood.rounding": ["0.25", -0.25, NAN, True, ...],
        "latents.sigma": ["Tensor"],
        "latents.tau": ["Gaussian", "LogGaussian"],
        "n_draws": [1, 8],
        "n_chains": [1, 2],
        "history": [False],
        "ratings.time": [False],
    },
    "draws": {
        "model.users": ["hierarchical"],
        "model.noise": ["item"],
        "model.likelihood.n_levels": [4, 6, 1, 5.0, "5", True, None, ...],
        "latents.U": ["Gaussian"],
        "n_draws": [None, 2, 16],
        "n_chains": [None, 1, 4, 8],
        "history": [True],
        "ratings.time": [True],
    },
}
IN_HEADER = [
    (name, path, values)
    for name in OF
    for entries in (BOTH, OF[name])
    for path, values in entries.items()
]


def in_words(x: object) -> str:
    """Return a parameter as text that is the same in every process."""
    return "by" if callable(x) else str(x)[:30]


@pytest.mark.parametrize(("name", "path", "values"), IN_HEADER, ids=in_words)
def test_a_header_that_says_something_else_is_refused(tmp_path, name, path, values):
    folder = copied(name, tmp_path)
    before = contents(folder)
    for value in values:
        change_header(folder, entry(path, value))
        refused(folder, match=None)
        (folder / "posterior.json").write_bytes(before["posterior.json"])


def column(name, change):
    """Return a change of a table: new values of one column, from the old ones."""

    def changed(table):
        values = change(table.column(name).to_numpy().copy())
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    return changed


def put(row, value):
    def change(values):
        values = values.astype(object) if isinstance(value, str) else values
        values[row] = value
        return values

    return change


def rows(*order):
    return lambda table: table.take(pa.array(order))


IN_TABLES = {
    "an item of -1": ("ratings", column("item", put(0, -1))),
    "an item of a million": ("ratings", column("item", put(0, 10**6))),
    "a user of -1": ("ratings", column("user", put(0, -1))),
    "a user of a million": ("ratings", column("user", put(-1, 10**6))),
    "a user that does not ascend": ("ratings", column("user", put(0, 1))),
    "ratings in another order": ("ratings", rows(1, 0, 2, 3, 4, 5, 6, 7)),
    "ratings backwards": ("ratings", rows(7, 6, 5, 4, 3, 2, 1, 0)),
    "a pair less": ("ratings", lambda t: t.slice(1)),
    "the last pair less": ("ratings", lambda t: t.slice(0, len(t) - 1)),
    "a pair twice": ("ratings", rows(0, 0, 1, 2, 3, 4, 5, 6, 7)),
    "no ratings": ("ratings", lambda t: t.slice(0, 0)),
    "a rating that is not a number": ("ratings", column("rating", put(3, NAN))),
    "an infinite rating": ("ratings", column("rating", put(3, float("inf")))),
    "ratings in single precision": (
        "ratings",
        column("rating", lambda x: x.astype(np.float32)),
    ),
    "ratings as text": ("ratings", column("rating", lambda x: x.astype(str))),
    "users as text": ("ratings", column("user", lambda x: x.astype(str))),
    "users in 32 bits": ("ratings", column("user", lambda x: x.astype(np.int32))),
    "items as numbers with a point": ("ratings", column("item", lambda x: x.astype(float))),
    "no column of ratings": ("ratings", lambda table: table.drop(["rating"])),
    "columns in another order": ("ratings", lambda t: t.select(t.column_names[::-1])),
    "user and item exchanged": (
        "ratings",
        lambda t: t.rename_columns(["item", "user", *t.column_names[2:]]),
    ),
    "an empty cell": (
        "ratings",
        lambda t: t.set_column(2, "rating", pa.array([None] + [1.0] * (len(t) - 1))),
    ),
    "one more column": ("ratings", lambda t: t.append_column("more", t.column("user"))),
    "one user less": ("users", lambda t: t.slice(1)),
    "users unsorted": ("users", lambda t: t.take(pa.array([1, 0, *range(2, len(t))]))),
    "a user twice": ("users", lambda t: t.take(pa.array([0, 0, *range(2, len(t))]))),
    "one more user": ("users", lambda t: pa.table({"user": [*t["user"].to_pylist(), "zoe"]})),
    "users without a name": ("users", lambda t: t.rename_columns(["id"])),
    "users with a point": ("users", column("user", lambda x: np.arange(len(x)) + 0.5)),
    "users that are yes or no": ("users", lambda t: pa.table({"user": [False, True]})),
    "no users": ("users", lambda t: t.slice(0, 0)),
    "one item less": ("items", lambda t: t.slice(1)),
    "items unsorted": ("items", column("item", lambda x: x[::-1])),
    "an item twice": ("items", column("item", put(1, 7))),
    "items as bytes": ("items", column("item", lambda x: [str(i).encode() for i in x])),
    "one step less": ("steps", lambda t: t.slice(1)),
    "steps backwards": ("steps", column("step", lambda x: x[::-1])),
    "steps without seconds": ("steps", lambda t: t.drop(["seconds"])),
    "steps with another column": ("steps", lambda t: t.append_column("more", t.column("step"))),
    "negative seconds": ("steps", column("seconds", put(0, -1.0))),
    "seconds as text": ("steps", column("seconds", lambda x: x.astype(str))),
}  # fmt: skip
OF_VI = {
    "an ELBO that is not finite": ("steps", column("elbo", put(0, NAN))),
    "no time": ("ratings", lambda t: t.set_column(3, "time", pa.array([None] * len(t)))),
    "times as text": ("ratings", column("time", lambda x: x.astype(str))),
    "a history without a training pair": ("history", lambda t: t.slice(1)),
    "a history backwards": ("history", lambda t: t.take(pa.array([*range(len(t))][::-1]))),
    "a history with a pair twice": ("history", lambda t: t.take(pa.array([0, *range(len(t))]))),
    "a history with an item of a million": ("history", column("item", put(-1, 10**6))),
    "a history with a user of -1": ("history", column("user", put(0, -1))),
    "a history with ratings": ("history", lambda t: t.append_column("rating", t.column("user"))),
    "a history without another pair": ("history", lambda t: t.slice(0, len(t) - 1)),
    "an empty history": ("history", lambda t: t.slice(0, 0)),
}  # fmt: skip
OF_DRAWS = {
    "a rating between two levels": ("ratings", column("rating", put(3, 2.5))),
    "steps of one chain": ("steps", column("chain", lambda x: np.zeros_like(x))),
    "a level below the lowest": ("ratings", column("rating", put(3, 0.0))),
    "a level above the highest": ("ratings", column("rating", put(3, 6.0))),
    "steps without divergences": ("steps", lambda t: t.drop(["divergent"])),
    "divergences in whole numbers": ("steps", column("divergent", lambda x: x.astype(int))),
    "chains in turn": ("steps", column("chain", lambda x: np.arange(len(x)) % 2)),
    "a likelihood that is not finite": ("steps", column("log_likelihood", put(0, NAN))),
}
TABLES = [
    (name, *change, what)
    for name, own in (("vi", OF_VI), ("draws", OF_DRAWS))
    for what, change in (IN_TABLES | own).items()
]


@pytest.mark.parametrize(("name", "table", "change", "what"), TABLES, ids=in_words)
def test_a_table_that_says_something_else_is_refused(tmp_path, name, table, change, what):
    folder = copied(name, tmp_path)
    change_table(folder, table, change)
    refused(folder)


def tensor(end, change):
    """Return a change of all tensors whose name ends so, such as .var, or of one site."""

    def changed(tensors):
        names = [name for name in tensors if end in ("", name, name.split(".")[0])]
        assert names
        for name in names:
            tensors[name] = change(tensors[name].clone())

    return changed


def first(value):
    def change(x):
        x.view(-1)[0] = value
        return x

    return change


def exchanged(one, two):
    def change(tensors):
        tensors[one], tensors[two] = tensors[two], tensors[one]

    return change


IN_TENSORS = {
    **{f"{x} in {site}": tensor(site, first(x)) for x in (NAN, float("inf")) for site in "UVbc"},
    "U of more factors": tensor("U", lambda x: torch.cat([x, x], -1)),
    "U without a user": tensor("U", lambda x: x[..., 1:, :]),
    "U turned": tensor("U", lambda x: x.mT),
    "b of one more user": tensor("b", lambda x: torch.cat([x, x[..., :1]], -1)),
    "b in half precision": tensor("b", torch.Tensor.half),
    "b in double precision": tensor("b", torch.Tensor.double),
    "b in whole numbers": tensor("b", torch.Tensor.long),
    "no b": lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("b")],
    "one more latent": lambda tensors: tensors.update(Z=torch.zeros(3)),
    "sigma_b with one more axis": tensor("sigma_b", lambda x: x[..., None]),
}
TENSORS_OF_VI = {
    "a negative variance": tensor("U.var", first(-1.0)),
    "a negative variance of a logarithm": tensor("sigma.log_var", first(-0.1)),
    "a variance that is not a number": tensor("V.var", first(NAN)),
    "an infinite scale": tensor("sigma.log_mean", first(1e4)),
    "factors whose products are infinite": tensor("V.mean", first(1e20)),
    "a variance whose products are infinite": tensor("V.var", first(1e30)),
    "a variance of another shape": tensor("c.var", lambda x: x[:1]),
    "a variance of another type": tensor("c.var", torch.Tensor.double),
    "a negative scale": tensor("sigma_U", first(-0.3)),
    "a scale of zero": tensor("tau", first(0.0)),
    "no variance": lambda tensors: tensors.pop("U.var"),
    "W for U": exchanged("W.mean", "U.mean"),
}
TENSORS_OF_DRAWS = {
    "a draw less": tensor("", lambda x: x[1:]),
    "a draw of b less": tensor("b", lambda x: x[1:]),
    "one draw": tensor("U", lambda x: x[0]),
    "a negative scale": tensor("sigma_U", first(-0.3)),
    "shares that miss one": tensor("shares", first(0.99)),
    "a negative share": tensor("shares", lambda x: x * -1),
    "shares of four levels": tensor("shares", lambda x: x[..., 1:]),
    "U for V": exchanged("U", "V"),
}
TENSORS = [
    (name, change, what)
    for name, own in (("vi", TENSORS_OF_VI), ("draws", TENSORS_OF_DRAWS))
    for what, change in (IN_TENSORS | own).items()
]


@pytest.mark.parametrize(("name", "change", "what"), TENSORS, ids=in_words)
def test_tensors_that_say_something_else_are_refused(tmp_path, name, change, what):
    folder = copied(name, tmp_path)
    change_tensors(folder, change)
    refused(folder)


FILES = [f"{name}.parquet" for name in ("users", "items", "ratings", "steps")]


@pytest.mark.parametrize("one", FILES)
@pytest.mark.parametrize("two", FILES)
def test_exchanged_files_are_refused(folder, one, two):
    before = contents(folder)
    (folder / one).write_bytes(before[two])
    (folder / two).write_bytes(before[one])
    sign(folder)
    if one == two:
        load(folder)
    else:
        refused(folder)


def test_exchanged_files_of_equal_ids_are_refused(tmp_path):
    """The column says whose ids they are, where kind and number of ids do not."""
    folder = copied("draws", tmp_path)
    for side in ("user", "item"):
        change_table(
            folder, f"{side}s", lambda t, side=side: pa.table({side: list("abcd")[: len(t)]})
        )
    change_table(folder, "users", lambda t: t.rename_columns(["item"]))
    refused(folder)


@pytest.mark.parametrize(
    "name",
    ["latents.safetensors", "users.parquet", "items.parquet", "ratings.parquet", "steps.parquet"],
)
def test_files_of_another_posterior_are_refused(folder, name):
    other = "draws" if (folder / "history.parquet").exists() else "vi"
    shutil.copy(GOLDEN / f"format-6-{other}" / name, folder / name)
    sign(folder)
    refused(folder)


def test_a_file_without_a_checksum_is_refused(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    for k in range(len(lines)):
        (folder / "SHA256SUMS").write_text("".join(lines[:k] + lines[k + 1 :]))
        refused(folder)
    (folder / "SHA256SUMS").write_text("".join([*lines, lines[0]]))
    refused(folder)


def test_a_path_outside_the_folder_is_never_followed(folder, tmp_path):
    (tmp_path / "secret").write_text("x")
    lines = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(lines + f"{'0' * 64}  ../secret\n")
    refused(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"4", b"\xff", b"[" * 100_000])
def test_a_header_that_is_none_is_refused(folder, text):
    (folder / "posterior.json").write_bytes(text)
    sign(folder)
    refused(folder)


def test_an_entry_that_occurs_twice_is_refused(folder):
    text = (folder / "posterior.json").read_text()
    (folder / "posterior.json").write_text(text.replace("{", '{"format": 6,', 1))
    sign(folder)
    refused(folder, match="occurs twice")


def test_names_of_columns_may_be_added(folder):
    """An entry that folders of this format may lack."""
    before = load(folder)
    change_header(folder, lambda header: header["ratings"].update(columns={"user": "customer"}))
    pairs = pd.DataFrame({"user": ["ann"], "item": [8]})
    pd.testing.assert_frame_equal(load(folder).predict(pairs), before.predict(pairs))
