"""Figures of the music example; `music.py` saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter
from music_models import BEST, COUNTS, POOLED, RECIPE
from music_tables import listener_counts, name_of
from sklearn.manifold import TSNE

from pyro_pmf import Posterior
from pyro_pmf.prediction.metrics import calibration

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"


def save_pictures(
    posteriors: dict[str, Posterior],
    listens: Posterior,
    pits: dict[str, np.ndarray],
    titles: pd.Series,
    folder: Path,
) -> None:
    """Save the figures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "calibration": draw_calibration(pits),
        "biases": draw_biases(posteriors[RECIPE], posteriors[POOLED], titles),
        "artists": draw_artists(listens, titles),
        "neighbourhoods": draw_neighbourhoods(listens, titles),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        pyplot.close(figure)
    print(f"\nPictures: {', '.join(f'{name}.png' for name in pictures)} in {folder}/")


def draw_calibration(pits: dict[str, np.ndarray]) -> Any:
    """Draw coverage of central intervals against their probability."""
    figure, ax = pyplot.subplots(figsize=(5.8, 5.4), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.45", linewidth=1, linestyle=(0, (4, 3)))
    for name, colour, marker in (
        (RECIPE, VERMILLION, "s"),
        (COUNTS, GREEN, "^"),
        (BEST, BLUE, "o"),
    ):
        table = calibration(pits[name])
        ax.plot(
            table["probability"], table["coverage"], color=colour, marker=marker, ms=5, label=name
        )
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="Probability of the central interval",
        ylabel="Share of held-out counts inside",
    )
    ax.set_title(f"Calibration on {len(pits[BEST]):,} held-out counts", loc="left")
    ax.legend(loc="lower right", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_biases(recipe: Posterior, pooled: Posterior, titles: pd.Series) -> Any:
    """Draw artist biases against the number of listeners, by the recipe and by a pooled model."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11.0, 4.6), layout="constrained")
    width, sd = recipe.ratings.transform.width, pooled.ratings.transform.log_sd
    for ax, posterior, map_, title, label in (
        (axes[0], recipe, lambda x: width * x, RECIPE, "Artist bias (plays)"),
        (axes[1], pooled, lambda x: np.exp(sd * x), POOLED, "Artist effect (times as many plays)"),
    ):
        table = posterior.item_effects()
        place = table["n_ratings"], map_(table["mean"])
        if posterior is pooled:
            ends = map_(table["lower"]), map_(table["upper"])
            ax.vlines(table["n_ratings"], *ends, color=BLUE, alpha=0.08, linewidth=1)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            ax.yaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.plot(*place, "o", color=BLUE, ms=3, alpha=0.4, markeredgewidth=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.set(xlabel="Listeners in training", ylabel=label)
        ax.set_title(title + (", with 90% intervals" if posterior is pooled else ""), loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        label_points(ax, [name_of(titles, item, 24) for item in table["item"]], *place, 5)
    return figure


def draw_artists(posterior: Posterior, titles: pd.Series, n_named: int = 45) -> Any:
    """Draw the artists with most listeners by the first two principal components of V.

    An ellipse is one standard deviation of the posterior.
    """
    order, mean, var = most_heard(posterior)
    _, _, axes = np.linalg.svd(mean - mean.mean(0), full_matrices=False)
    place = (mean - mean.mean(0)) @ axes[:2].T
    covariance = np.einsum("ak,nk,bk->nab", axes[:2], var, axes[:2])
    _, ax = pyplot.subplots(figsize=(11.0, 8.5), layout="constrained")
    for k in range(min(n_named, len(order))):
        variances, directions = np.linalg.eigh(covariance[k])
        angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
        height, width = 2 * np.sqrt(variances)
        ax.add_patch(
            Ellipse(place[k], width, height, angle=angle, facecolor=BLUE, alpha=0.13, linewidth=0)
        )
    ax.set(xlabel="First principal component of V", ylabel="Second principal component of V")
    words = "by who listens to them; ellipses: one posterior standard deviation"
    return scatter_artists(ax, posterior, order, place, titles, words, n_named)


def draw_neighbourhoods(posterior: Posterior, titles: pd.Series, n_named: int = 70) -> Any:
    """Draw artists placed by t-SNE (van der Maaten & Hinton 2008), neighbours together."""
    order, mean, _ = most_heard(posterior)
    lengths = np.linalg.norm(mean, axis=1, keepdims=True)
    near = min(30.0, (len(order) - 1) / 3)
    tsne = TSNE(perplexity=near, init="pca", random_state=0)
    place = tsne.fit_transform(mean / np.maximum(lengths, 1e-12))
    _, ax = pyplot.subplots(figsize=(11.0, 8.5), layout="constrained")
    ax.set(
        xticks=[], yticks=[], xlabel="t-SNE of the directions of V: only nearness has a meaning"
    )
    return scatter_artists(ax, posterior, order, place, titles, "neighbours together", n_named)


def most_heard(posterior: Posterior, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices of the artists with most listeners; means and variances of their factors."""
    order = np.argsort(-listener_counts(posterior))[:n]
    V = posterior.latents["V"]
    return order, V.mean.numpy()[order], V.var.numpy()[order]


def scatter_artists(
    ax: Any,
    posterior: Posterior,
    order: np.ndarray,
    place: np.ndarray,
    titles: pd.Series,
    words: str,
    n_named: int,
) -> Any:
    """Draw artists as dots, larger with more listeners, and name the first artists."""
    size = np.sqrt(listener_counts(posterior)[order])
    ax.scatter(*place.T, s=1.2 * size, color=BLUE, alpha=0.55, linewidths=0)
    title = f"The {len(order)} artists with most listeners, {words}"
    ax.set_title(title, loc="left", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    names = [name_of(titles, posterior.ratings.item_ids[item], 24) for item in order]
    label_points(ax, names, *place.T, n_named)
    return ax.figure


def label_points(ax: Any, names: list[str], x: Any, y: Any, n: int) -> None:
    """Name the first n points, each beside its dot; leave out names without room."""
    ax.figure.canvas.draw()
    renderer, taken = ax.figure.canvas.get_renderer(), []
    for name, *place in zip(names[:n], np.asarray(x)[:n], np.asarray(y)[:n], strict=True):
        for across, up, side in (
            (5, 4, "left"),
            (-5, 4, "right"),
            (5, -10, "left"),
            (-5, -10, "right"),
        ):
            text = ax.annotate(
                name.replace("$", r"\$"),
                place,
                (across, up),
                textcoords="offset points",
                ha=side,
                fontsize=8,
            )
            box = text.get_window_extent(renderer)
            inside = ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
