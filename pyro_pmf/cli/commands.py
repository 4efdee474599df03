"""The commands, each a function of `pyro_pmf` or a method of `Posterior`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pyro_pmf.cli.answers import fail, rounded, say, show, with_hints
from pyro_pmf.cli.options import (
    Duplicate,
    Figure,
    File,
    Interval,
    ItemColumn,
    Json,
    Likelihood,
    Method,
    Model,
    Out,
    Overwrite,
    Rated,
    RatingColumn,
    Reading,
    Rows,
    Seed,
    Strategy,
    Titles,
    To,
    UserColumn,
    image,
    reading_options,
)
from pyro_pmf.cli.questions import (
    as_ids,
    given_file,
    read_pairs,
    read_titles,
    reading,
    titled,
)
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.fitting import fit
from pyro_pmf.model.likelihoods import likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.storage import require_place
from pyro_pmf.posterior import load

_Function = TypeVar("_Function", bound=Callable[..., None])
_logger = logging.getLogger("pyro_pmf")

app = typer.Typer(
    name="pyro-pmf",
    help="Bayesian matrix factorization of ratings; predictions say how sure they are.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _command(name: str | None = None) -> Callable[[_Function], _Function]:
    """Register a function as a command, whose errors say which of its options to give."""

    def register(function: _Function) -> _Function:
        app.command(name)(with_hints(function, reading_options(function)))
        return function

    return register


@_command("fit")
def fit_command(
    ratings: File,
    output: To,
    method: Annotated[Method, typer.Option(help="vi is fast; gibbs predicts best.")] = Method.vi,
    factors: Annotated[int, typer.Option(help="Number of factors, at most.")] = 16,
    users: Annotated[Rows, typer.Option(help="Prior of users.")] = Rows.independent,
    items: Annotated[Rows, typer.Option(help="Prior of items.")] = Rows.independent,
    likelihood: Annotated[
        Likelihood,
        typer.Option(
            help="normal: through a sigmoid; auto chooses by the ratings, and takes longer."
        ),
    ] = Likelihood.normal,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest possible rating.", show_default=False),
    ] = None,
    test: Annotated[float, typer.Option(help="Share of ratings held out and evaluated.")] = 0.0,
    user: UserColumn = "auto",
    item: ItemColumn = "auto",
    rating: RatingColumn = "auto",
    read: Reading = None,
    on_duplicate: Annotated[
        Duplicate, typer.Option(help="What to do with pairs that occur twice.")
    ] = Duplicate.error,
    seed: Seed = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to keep a checkpoint in.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit a file of ratings and save the posterior.

    Example: [bold]pyro-pmf fit ratings.csv -o films.pmf --scale 0.5 5 --test 0.1[/bold]
    """
    _require_apart(output, checkpoint)
    _require_place(output, overwrite)
    options = {"scale": scale, "on_duplicate": on_duplicate.value} | reading(read)
    table = Ratings.read(ratings, user=user, item=item, rating=rating, **options)
    _logger.info("%s", table)
    train, held_out = table.split(test, seed=seed) if test else (table, None)
    model = PMF(factors, users=users.value, items=items.value)
    if likelihood is Likelihood.auto:
        model = replace(model, likelihood="auto")
    posterior = fit(model, train, method.value, seed=seed, checkpoint=checkpoint, resume=resume)
    posterior.save(output, overwrite=overwrite)
    told: dict[str, Any] = {
        "saved": str(output),
        "ratings": len(train),
        "users": train.n_users,
        "items": train.n_items,
        "likelihood": str(likelihood_of(posterior.model)),
        "method": method.value,
        "converged": bool(posterior.converged),
    }
    if held_out is not None:
        told |= rounded(posterior.evaluate(held_out))
    say(told, as_json)


@_command()
def evaluate(
    model: Model,
    ratings: File,
    user: UserColumn = "auto",
    item: ItemColumn = "auto",
    rating: RatingColumn = "auto",
    read: Reading = None,
    interval: Interval = 0.9,
    rated: Rated = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Set the mean and biases beside the model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score the predictions of a file of ratings.

    Example: [bold]pyro-pmf evaluate films.pmf held-out.csv[/bold]
    """
    posterior = load(model)
    pairs = read_pairs(ratings, posterior.ratings, user, item, rating, read)
    if baselines:
        table = posterior.evaluate(pairs, interval, rated=rated, baselines=True)
        show(table.T.rename_axis("score").reset_index(), None, as_json)
    else:
        say(rounded(posterior.evaluate(pairs, interval, rated=rated)), as_json)


@_command()
def predict(
    model: Model,
    pairs: File,
    output: Out = None,
    user: UserColumn = "auto",
    item: ItemColumn = "auto",
    read: Reading = None,
    interval: Interval = 0.9,
    at_least: Annotated[
        float | None, typer.Option(help="Add the probability of such a rating.")
    ] = None,
    rated: Rated = False,
    as_json: Json = False,
) -> None:
    """Predict the ratings of a file of pairs: mean, sd and an interval each.

    Example: [bold]pyro-pmf predict films.pmf pairs.csv -o predicted.csv[/bold]
    """
    posterior = load(model)
    asked = read_pairs(pairs, posterior.ratings, user, item, None, read)
    show(posterior.predict(asked, interval, at_least, rated), output, as_json)


@_command()
def recommend(
    model: Model,
    user: Annotated[list[str], typer.Option(help="A user; may be repeated.", show_default=False)],
    n: Annotated[int, typer.Option("-n", help="Number of items for each user.")] = 10,
    strategy: Annotated[Strategy, typer.Option(help="What items are ranked by.")] = Strategy.mean,
    at_least: Annotated[
        float | None, typer.Option(help="The rating that the strategy probability asks for.")
    ] = None,
    titles: Titles = None,
    read: Reading = None,
    seed: Seed = 0,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """Recommend items that a user has not rated.

    Example: [bold]pyro-pmf recommend films.pmf --user 5 --titles movies.csv[/bold]
    """
    posterior = load(model)
    ids = as_ids(user, posterior.ratings.user_ids)
    names = read_titles(titles, posterior.ratings, read) if titles else None
    table = posterior.recommend(ids, n, strategy.value, at_least=at_least, seed=seed)
    for stranger in table.loc[~table["known_user"], "user"].unique():
        _logger.info("No ratings of user %s are known: these items are for anyone.", stranger)
    show(titled(table, names), output, as_json)


@_command()
def similar(
    model: Model,
    item: Annotated[list[str] | None, typer.Option(help="An item; may be repeated.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="A user; may be repeated.")] = None,
    n: Annotated[int, typer.Option("-n", help="Number of similar ones for each.")] = 10,
    titles: Titles = None,
    read: Reading = None,
    output: Out = None,
    as_json: Json = False,
) -> None:
    """List the items, or the users, whose factors are most alike.

    Example: [bold]pyro-pmf similar films.pmf --item 260 --titles movies.csv[/bold]
    """
    if bool(item) == bool(user):
        fail("Give --item or --user, one of them.")
    posterior = load(model)
    if item:
        names = read_titles(titles, posterior.ratings, read) if titles else None
        table = posterior.similar_items(as_ids(item, posterior.ratings.item_ids), n, names)
    else:
        table = posterior.similar_users(as_ids(user or [], posterior.ratings.user_ids), n)
    show(table, output, as_json)


@_command("fold-in")
def fold_in(
    model: Model,
    ratings: File,
    output: To,
    user: UserColumn = "auto",
    item: ItemColumn = "auto",
    rating: RatingColumn = "auto",
    read: Reading = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Learn new users or items, or more ratings of old ones, without another fit.

    Example: [bold]pyro-pmf fold-in films.pmf new.csv -o films-2.pmf[/bold]
    """
    _require_place(output, overwrite)
    before = load(model)
    new = read_pairs(ratings, before.ratings, user, item, rating, read)
    after = before.fold_in(new, seed=seed)
    after.save(output, overwrite=overwrite)
    told = {"saved": str(output)}
    for side in ("users", "items"):
        n_before, n_after = (getattr(x.ratings, f"n_{side}") for x in (before, after))
        told |= {side: n_after, f"new {side}": n_after - n_before}
    say(told | {"ratings": len(after.ratings)}, as_json)


@_command()
def summary(model: Model, output: Out = None, as_json: Json = False) -> None:
    """Summarize the scalar parameters of a posterior.

    Example: [bold]pyro-pmf summary films.pmf[/bold]
    """
    posterior = load(model)
    _logger.info("%r", posterior)
    show(posterior.summary().rename_axis("parameter").reset_index(), output, as_json)


@_command()
def plot(
    model: Model,
    figure: Annotated[Figure, typer.Argument(help="What to draw.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="An image: .png, .svg, .pdf.", callback=image),
    ],
    ratings: Annotated[
        Path | None,
        typer.Option(
            help="Held-out ratings, for calibration, pit and error-by-sd.",
            show_default=False,
            callback=given_file,
        ),
    ] = None,
    user: UserColumn = "auto",
    item: ItemColumn = "auto",
    rating: RatingColumn = "auto",
    read: Reading = None,
) -> None:
    """Draw a figure of a posterior or of its predictions.

    Example: [bold]pyro-pmf plot films.pmf calibration --ratings held-out.csv -o c.png[/bold]
    """
    try:
        from matplotlib.figure import Figure as Canvas

        from pyro_pmf.criticism import plots
    except ModuleNotFoundError as error:
        fail(f"{error}: pip install 'pyro-pmf[plots]' for figures.")
    draw = getattr(plots, f"plot_{figure.value.replace('-', '_')}")
    needs_ratings = figure in (Figure.calibration, Figure.error_by_sd, Figure.pit)
    if needs_ratings != (ratings is not None):
        fail(f"{figure.value} {'needs' if needs_ratings else 'takes no'} --ratings.")
    posterior, given = load(model), []
    if ratings is not None:
        given = [read_pairs(ratings, posterior.ratings, user, item, rating, read)]
    canvas = Canvas(figsize=(6, 4), layout="constrained")
    draw(posterior, *given, ax=canvas.subplots())
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        canvas.savefig(output, dpi=150)
    except ValueError as error:  # an unknown kind of image
        fail(str(error))
    say({"saved": str(output)}, False)


def _require_place(output: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, before the work and not after it."""
    if output.exists() and not overwrite:
        fail(f"{output} exists: give --overwrite, or another folder.")
    require_place(output, overwrite)


def _require_apart(output: Path, checkpoint: Path | None) -> None:
    """Refuse a checkpoint in the folder of the result: a folder of other files is not replaced."""
    if checkpoint is None:
        return
    place, kept = output.resolve(), checkpoint.resolve()
    if place == kept or place in kept.parents:
        fail(
            f"--checkpoint {checkpoint} is in the folder of the result, {output}: give another "
            "folder to one of them."
        )
