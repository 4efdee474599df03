"""Run all methods on the same splits; write a table, a plot and every number.

python -m benchmarks                                        # everything, 45 minutes on two cores
python -m benchmarks --data movielens-100k --seeds 0 --methods vi-both myfm-ids cornac-mf
python -m benchmarks --report-only                          # the table and plot of an earlier run
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.compare import rmse_difference
from benchmarks.data import DATA, split
from benchmarks.methods import BY_KEY, METHODS, REFERENCE, Method
from benchmarks.plot import draw
from benchmarks.report import render

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run the methods, or read an earlier run, and write the report."""
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.report_only:
        results = json.loads((options.out / "peers.json").read_text())
    else:
        results = {
            "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "import_seconds": machine.import_seconds(),
            "runs": [],
        }
        for runs in run_all(options):
            results["runs"] += runs
            (options.out / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    report = render(results)
    (options.out / "peers.md").write_text(report)
    draw(results, options.out / "rmse_against_seconds.png")
    print(report)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=["all", *BY_KEY],
        default=["all"],
        metavar="METHOD",
        help=f"all, or some of: {', '.join(BY_KEY)}",
    )
    parser.add_argument(
        "--all-seeds", action="store_true", help="run slow methods with every seed too"
    )
    parser.add_argument("--sample", type=int, help="take only N ratings, for a trial", metavar="N")
    parser.add_argument("--timeout", type=float, default=900, help="limit of one fit, seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    return parser.parse_args()


def run_all(options: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Yield the runs of each data set and seed, one list for each split."""
    chosen = [m for m in METHODS if {"all", m.key} & set(options.methods)]
    for data in options.data:
        for seed in options.seeds:
            now = [
                m for m in chosen if seed == options.seeds[0] or options.all_seeds or not m.slow
            ]
            yield run_methods(now, data, seed, options)


def run_methods(
    methods: list[Method], data: str, seed: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run each method on one split; compare each with the reference, rating by rating."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            saved = Path(folder) / f"{method.key}.npy"
            curve = [] if method.curve_apart else ["--curve"]
            run = run_one(method, data, seed, options, [*curve, "--predictions", str(saved)])
            if method.curve_apart and "error" not in run:
                looked_at = run_one(method, data, seed, options, ["--curve"])
                run["curve"] = looked_at.get("curve", run["curve"])
            runs.append({"method": method.key, "data": data, "seed": seed, **run})
            print(_line(method, data, seed, run), file=sys.stderr, flush=True)
        reference = Path(folder) / f"{REFERENCE}.npy"
        if reference.exists():
            _, test = split(data, seed, options.sample)
            for run in runs:
                if "error" not in run:
                    predicted = np.load(Path(folder) / f"{run['method']}.npy")
                    pair = np.load(reference), predicted
                    run["against_reference"] = rmse_difference(test.rating, *pair, test.user)
    return runs


def run_one(
    method: Method, data: str, seed: int, options: argparse.Namespace, flags: list[str]
) -> dict[str, Any]:
    """Return the numbers that `benchmarks.one` prints, or the error that ended it."""
    command = [sys.executable, "-m", "benchmarks.one", "--method", method.key, "--data", data]
    command += ["--seed", str(seed), *flags]
    if options.sample is not None:
        command += ["--sample", str(options.sample)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=options.timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {options.timeout:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        return {"error": last.split(". ")[0][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def _line(method: Method, data: str, seed: int, run: dict[str, Any]) -> str:
    result = run.get("error") or f"RMSE {run['rmse']:.4f}  {run['fit_seconds']:.2f} s"
    return f"{data}  seed {seed}  {method.name:38}{result}"


if __name__ == "__main__":
    main()
