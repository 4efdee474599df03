"""The arguments and options of the commands."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from pyro_pmf.cli.answers import fail, writable
from pyro_pmf.cli.questions import given_file


class Method(StrEnum):
    """Methods of `fit` that need no further options."""

    vi = "vi"
    map = "map"
    gibbs = "gibbs"


class Likelihood(StrEnum):
    """Likelihoods by name."""

    auto = "auto"
    normal = "normal"


class Duplicate(StrEnum):
    """What `Ratings.read` does with pairs that occur more than once."""

    error = "error"
    last = "last"
    mean = "mean"


class Rows(StrEnum):
    """Priors of the rows of one side."""

    independent = "independent"
    hierarchical = "hierarchical"


class Strategy(StrEnum):
    """Strategies of `Posterior.recommend`."""

    mean = "mean"
    ucb = "ucb"
    lcb = "lcb"
    thompson = "thompson"
    probability = "probability"


class Figure(StrEnum):
    """Figures of `pyro_pmf.criticism.plots`."""

    calibration = "calibration"
    elbo = "elbo"
    error_by_sd = "error-by-sd"
    factor_norms = "factor-norms"
    pit = "pit"
    scales = "scales"


File = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV, Parquet, a folder of MovieLens, or - for stdin.",
        show_default=False,
        callback=given_file,
    ),
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="NAME=VALUE",
        help="How to read a text file: sep, encoding, decimal, or names of its columns; "
        "may be repeated.",
        show_default=False,
    ),
]
Model = Annotated[Path, typer.Argument(help="Folder of a saved posterior.", show_default=False)]
To = Annotated[Path, typer.Option("--output", "-o", help="Folder to save the posterior to.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write the table to this .csv, .tsv or .parquet file.",
        callback=writable,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a posterior saved there.")]
UserColumn = Annotated[
    str, typer.Option(help="Column of users; by default found by its name.", show_default=False)
]
ItemColumn = Annotated[
    str, typer.Option(help="Column of items; by default found by its name.", show_default=False)
]
RatingColumn = Annotated[
    str, typer.Option(help="Column of ratings; by default found by its name.", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Rated = Annotated[
    bool, typer.Option("--rated", help="Ask how they rated it, given that they did.")
]
Interval = Annotated[float, typer.Option(help="Probability inside the intervals.")]
Titles = Annotated[
    Path | None,
    typer.Option(
        help="File with titles of items, such as movies.csv, or - for stdin.",
        show_default=False,
        callback=given_file,
    ),
]
_OF_FILES = {"user": UserColumn, "item": ItemColumn, "rating": RatingColumn, "read": Reading}


def reading_options(command: Callable[..., None]) -> set[str]:
    """Return the options of a command that say how to read a file."""
    kinds = get_type_hints(command, include_extras=True)
    return {name for name, kind in _OF_FILES.items() if kinds.get(name) == kind}


def image(path: Path) -> Path:
    """Return the file that a figure is written to: .png where its name has no ending."""
    if not path.is_dir() and not path.suffix.strip("."):
        path = path.with_name(f"{path.name.rstrip('.')}.png")
    if path.is_dir():
        fail(f"{path} is a folder: give the name of an image, as in {path / 'figure.png'}.")
    return path
