"""Write the Markdown report of all runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.compare import pool, seconds_to_reach
from benchmarks.methods import BY_KEY, LIBRARIES, METHODS, MYFM_BOTH, MYFM_IDS, REFERENCE

Run = dict[str, Any]

NOTES = """
RMSE and MAE are in rating units, ± the standard deviation over several seeds. The predictions of
every method are clipped to the rating scale. NLL is the mean negative log predictive density in
nats, for methods that have a density. *Behind* is the RMSE minus the RMSE of {reference} on the
same held-out ratings: the mean over the seeds that both have, ± a standard error from the pairs of
errors, clustered by user. A positive number is worse than {reference}.

*Fit* is the time from arrays of user index, item index and rating to a fitted model. It includes
the conversion to the package's own input and the extra cost of a first call; it excludes imports
(see above). Each fit runs in its own process. *Reached in* is the time after which {reference}
first had an RMSE at least as low as the final RMSE of this method with the same seed. It comes
from a second fit in another process, scored every ten steps while the clock stood still. "(2 of
3)" counts the seeds with which that happened; the mean is over these seeds. *Memory* is the peak
of the fit minus the resident memory before it.

All methods may use all cores. Users and items without training ratings are scored too: by the
prediction of the package, or by the global mean if it makes none.
"""


def render(results: dict[str, Any]) -> str:
    """Return the report as Markdown.

    Parameters
    ----------
    results : dict
        machine, versions, import_seconds, date, command; runs: a list of dicts, each with
        method, data, seed, and either error or what `benchmarks.one` prints with
        ``against_reference``.
    """
    lines = ["# Comparison with other packages", ""]
    lines += [f"`{results['command']}`, {results['date']}", ""]
    lines += [_facts(results["machine"]), "", _facts(results["versions"]), ""]
    imports = {name: f"{seconds:.2f}" for name, seconds in results["import_seconds"].items()}
    lines += [f"Seconds to import: {_facts(imports)}", ""]
    for data in dict.fromkeys(run["data"] for run in results["runs"]):
        lines += _section(data, [run for run in results["runs"] if run["data"] == data])
    lines += ["## How to read this", NOTES.format(reference=BY_KEY[REFERENCE].name), ""]
    lines += _settings({run["method"] for run in results["runs"]})
    return "\n".join(lines)


def _section(data: str, runs: list[Run]) -> list[str]:
    done = [run for run in runs if "error" not in run]
    lines = [f"## {data}", ""]
    if not done:
        return [*lines, "Nothing was fitted.", "", *_failures(runs)]
    first = done[0]
    seeds = sorted({run["seed"] for run in runs})
    lines += [
        f"{first['n_train'] + first['n_test']:,} ratings, {first['n_users']:,} users and "
        f"{first['n_items']:,} items with training ratings, 10% held out at random "
        f"({first['n_unknown']:,} of {first['n_test']:,} of an unknown user or item), "
        f"seeds {', '.join(map(str, seeds))}; the counts are of seed {first['seed']}.",
        "",
        "| | seeds | RMSE | behind | MAE | NLL | fit, s | reached in, s | predictions/s "
        "| memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_method = group(done)
    lines += [_row(key, own, by_method) for key, own in by_method.items()]
    return [*lines, "", *claims(by_method), "", *_failures(runs)]


def group(runs: list[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, in the order of `METHODS`."""
    order = [method.key for method in METHODS]
    keys = sorted({run["method"] for run in runs}, key=order.index)
    return {key: [run for run in runs if run["method"] == key] for key in keys}


def _row(key: str, runs: list[Run], by_method: dict[str, list[Run]]) -> str:
    name = BY_KEY[key].name
    cells = [f"**{name}**" if key == REFERENCE else name, str(len(runs))]
    cells.append(_spread([run["rmse"] for run in runs]))
    behind = difference(runs)
    cells.append(
        "" if behind is None or key == REFERENCE else f"{behind[0]:+.4f} ± {behind[1]:.4f}"
    )
    cells.append(f"{_mean(runs, 'mae'):.4f}")
    cells.append("" if runs[0]["nll"] is None else f"{_mean(runs, 'nll'):.4f}")
    cells.append(f"{_mean(runs, 'fit_seconds'):.2f}")
    cells.append("" if key == REFERENCE else _reached(runs, by_method.get(REFERENCE, [])))
    cells.append(f"{_mean(runs, 'predictions_per_second'):,.0f}")
    cells.append(f"{_mean(runs, 'fit_mib'):,.0f}")
    return f"| {' | '.join(cells)} |"


def claims(by_method: dict[str, list[Run]]) -> list[str]:
    """Return a sentence for each main result of the comparison."""
    lines = []
    for key, runs in by_method.items():
        if BY_KEY[key].curve_apart and MYFM_IDS in by_method:
            lines.append(f"- {BY_KEY[key].name} {_against_clock(runs, by_method[MYFM_IDS])}")
    if REFERENCE not in by_method:
        return lines
    name = BY_KEY[REFERENCE].name
    peers = [MYFM_BOTH] if MYFM_BOTH in by_method else []
    for library in LIBRARIES:
        own = [key for key in by_method if BY_KEY[key].name.startswith(library)]
        if own:
            peers.append(min(own, key=lambda key: _mean(by_method[key], "rmse")))
    for key in peers:
        behind = difference(by_method[key])
        if behind is None:
            continue
        best = "" if key == MYFM_BOTH else "the best of its package here, "
        word = "lower" if behind[0] > 0 else "higher"
        ours = _mean(by_method[REFERENCE], "fit_seconds")
        lines.append(
            f"- Against {BY_KEY[key].name}, {best}the RMSE of {name} is "
            f"{abs(behind[0]):.4f} ± {behind[1]:.4f} {word}. "
            f"Its fit takes {ours:.2f} s, the other {_mean(by_method[key], 'fit_seconds'):.2f} s."
        )
    return lines


def _against_clock(ours: list[Run], theirs: list[Run]) -> str:
    pairs = [(own["curve"], run) for run in theirs for own in ours if own["seed"] == run["seed"]]
    times = [(seconds_to_reach(curve, run["rmse"]), run["fit_seconds"]) for curve, run in pairs]
    reached = [(ours, theirs) for ours, theirs in times if ours is not None]
    name, rmse = BY_KEY[MYFM_IDS].name, _mean(theirs, "rmse")
    target = f"the final RMSE of {name} ({rmse:.4f})"
    if not reached:
        return f"does not reach {target} with any of {len(times)} seeds."
    a, b = (float(x) for x in np.mean(reached, axis=0))
    share = "" if len(reached) == len(times) else f", with {len(reached)} of {len(times)} seeds"
    ratio = f"1/{b / a:.1f} of its" if a < b else f"{a / b:.1f} times its"
    return f"reaches {target} in {a:.2f} s, {ratio} {b:.2f} s{share}."


def difference(runs: list[Run]) -> tuple[float, float] | None:
    """Return how far a method is behind the reference, pooled over the seeds of both."""
    pairs = [tuple(run["against_reference"]) for run in runs if run.get("against_reference")]
    return pool(pairs) if pairs else None


def _reached(runs: list[Run], reference: list[Run]) -> str:
    curves = {run["seed"]: run["curve"] for run in reference}
    known = [run for run in runs if run["seed"] in curves]
    times = [seconds_to_reach(curves[run["seed"]], run["rmse"]) for run in known]
    reached = [seconds for seconds in times if seconds is not None]
    if not known:
        return ""
    if not reached:
        return "never"
    share = "" if len(reached) == len(times) else f" ({len(reached)} of {len(times)})"
    return f"{np.mean(reached):.2f}{share}"


def _mean(runs: list[Run], field: str) -> float:
    return float(np.mean([run[field] for run in runs]))


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def _failures(runs: list[Run]) -> list[str]:
    failed = [run for run in runs if "error" in run]
    if not failed:
        return []
    lines = ["Not fitted:", ""]
    for run in failed:
        lines.append(f"- {BY_KEY[run['method']].name}, seed {run['seed']}: {run['error']}")
    return [*lines, ""]


def _settings(keys: set[str]) -> list[str]:
    lines = ["## Settings", "", "| | options | where from |", "|---|---|---|"]
    for method in METHODS:
        if method.key in keys:
            options = ", ".join(f"{name}={value!r}" for name, value in method.options.items())
            lines.append(f"| {method.name} | {options} | {method.source} |")
    return [*lines, ""]


def _facts(facts: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in facts.items()) + "."
