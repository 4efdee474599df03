r"""Time the steps of a fit that processes share, fit a model of cost to it, and print the report.

python -m benchmarks.sharing                    # 100,000 to 30 million ratings: 25 minutes
python -m benchmarks.sharing --ratings 10000000 --held-out
python -m benchmarks.sharing --method gibbs --ratings 100000 1000000          # no model of cost
python -m benchmarks.sharing --method map --processes 1
python -m benchmarks.sharing --in-files --processes 1 --ratings 1000000 10000000 30000000
python -m benchmarks.sharing --in-files --processes 1 --method gibbs --factors 16 \
    --ratings 1000000 10000000 30000000

The ratings are simulated; the model has hierarchical users. Each process has one thread, and
reads the rows of its own users. Seconds are the median of the later steps, the optimiser included.
Memory is the peak of a process from its start, the table included. With ``--in-files``, ratings
are kept in files (`Ratings.read_parts`), and memory is what the process has for itself, without
the pages of files that the system takes back when it needs them.

The model of cost is a sum, see `features`, and the seconds of the exchange. It is fitted to all
sizes but those held out, with relative errors (non-negative least squares).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.optimize import nnls

from benchmarks import machine
from benchmarks.one import memory
from pyro_pmf import MAP, PMF, VI, Fixed, Gibbs, NormalSigmoid, Priors, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.reducer import reducer_of_world

RESULTS = Path(__file__).parent / "results"
SCALE = (0.0, 1.0)
# By number of ratings: users and items, about as in MovieLens of that size.
SHAPES = {
    100_000: (900, 1_700),
    300_000: (2_500, 2_500),
    1_000_000: (6_000, 4_000),
    3_000_000: (20_000, 7_000),
    10_000_000: (70_000, 10_000),
    30_000_000: (200_000, 20_000),
}
_PROGRAM = "from benchmarks.sharing import write; write({n}, '{table}')"
# What is predicted: ratings, users, items, factors, processes, bytes a second between machines.
BILLION = {"n": 1e9, "users": 1e7, "items": 5e5, "factors": 16, "size": 16, "bandwidth": 1.25e9}


def main() -> None:
    """Measure each case in its own processes, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", nargs="+", type=int, default=list(SHAPES))
    parser.add_argument("--held-out", nargs="*", type=int, default=[30_000_000])
    parser.add_argument("--factors", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--method", choices=["vi", "map", "gibbs"], default="vi")
    parser.add_argument("--in-files", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("TABLE", "FACTORS"))
    options = parser.parse_args()
    if options.one:
        one = Path(options.one[0]), int(options.one[1]), options.steps, options.method
        measure(*one, options.in_files)
        return
    cases, is_usual = [], options.method == "vi" and not options.in_files
    for n in options.ratings:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "ratings.parquet"
            apart([sys.executable, "-c", _PROGRAM.format(n=n, table=table)])
            # few sizes tell what a factor costs
            many = is_usual and n in (1_000_000, 3_000_000)
            factors = options.factors if many else options.factors[-1:]
            for k in factors:
                for size in options.processes:
                    how = options.steps, options.method, options.in_files
                    cases.append(case(table, n, k, size, *how))
                    print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    report = render(cases, options.held_out) if is_usual else render_plain(cases)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "in_files" if options.in_files else "sharing"
    name += "" if options.method == "vi" else f"_{options.method}"
    (options.out / f"{name}.md").write_text(report)
    print(report)


def apart(command: list[str]) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def write(n: int, table: str) -> None:
    """Write simulated ratings to a file, so that simulating them takes no memory of a fit."""
    scales = {"sigma": 0.18, "sigma_U": 0.3, "sigma_V": 0.3, "sigma_b": 0.4, "sigma_c": 0.6}
    known = {name: Fixed(value) for name, value in scales.items()}
    priors = Priors(mu=Fixed(0.5), tau=Fixed(1.0), **known)
    frame = simulate(PMF(8, priors=priors), *SHAPES[n], n, seed=0)[0].to_frame()
    frame["rating"] = frame["rating"].clip(*SCALE)
    frame.sort_values("user").to_parquet(table, row_group_size=100_000)


def case(
    table: Path, n: int, factors: int, size: int, steps: int, method: str, in_files: bool
) -> dict[str, Any]:
    """Measure one number of processes."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", "--standalone"]
    command = [sys.executable, *(launcher if size > 1 else []), "-m", "benchmarks.sharing"]
    command += ["--one", str(table), str(factors), "--steps", str(steps), "--method", method]
    command += ["--in-files"] * in_files
    found = json.loads(apart(command).splitlines()[-1])
    return {"n": n, "factors": factors, "size": size, **found}


def own_rows(table: Path) -> pd.DataFrame:
    """Read the ratings of the users of this process: as many as each of the others reads."""
    reducer = reducer_of_world()
    if reducer.size == 1:
        return pd.read_parquet(table)
    user = pq.read_table(table, columns=["user"])["user"].to_numpy()  # ascends
    places = [len(user) * k // reducer.size for k in (reducer.rank, reducer.rank + 1)]
    first = user[places[0]]
    last = user[places[1]] if places[1] < len(user) else user[-1] + 1
    del user
    pa.default_memory_pool().release_unused()
    return pd.read_parquet(table, filters=[("user", ">=", first), ("user", "<", last)])


class OwnMemory(threading.Thread):
    """Watches the memory that a process has for itself, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        """Look a hundred times a second."""
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            time.sleep(0.01)


def measure(table: Path, factors: int, steps: int, method: str, in_files: bool) -> None:
    """Fit, and print what the first process found."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a fit this short has not converged
    watch = OwnMemory()
    if in_files:
        watch.start()
        train = Ratings.read_parts([table], table.parent, scale=SCALE)
    else:
        train = Ratings.from_frame(own_rows(table), scale=SCALE)
    model = PMF(factors, users="hierarchical", likelihood=NormalSigmoid(rounding=0.0))
    half = steps // 2
    options = {
        "vi": VI(max_steps=steps, learn_scales=None),
        "map": MAP(max_steps=steps, learn_scales=None),
        "gibbs": Gibbs(n_draws=steps - half, n_warmup=half, n_chains=1),
    }
    posterior = fit(model, train, options[method], progress=False)
    reducer = reducer_of_world()
    peak = float(reducer.largest(torch.tensor(watch.peak if in_files else memory("VmHWM"))))
    numbers = torch.zeros(2 * posterior.ratings.n_items * (2 * factors + 2))  # V, W, c, t
    exchange = []
    for _ in range(5):
        start = time.perf_counter()
        reducer.sum(numbers)
        exchange.append(time.perf_counter() - start)
    if reducer.rank == 0:
        found = {
            "seconds": posterior.steps["seconds"].diff()[-half:].median(),
            "exchange": statistics.median(exchange) if reducer.size > 1 else 0.0,
            "exchanged": numbers.numel() * numbers.element_size(),
            "memory": peak,
        }
        if method == "vi":
            found["elbo"] = posterior.steps["elbo"].iloc[0]
        print(json.dumps(found))


def features(n: float, users: float, items: float, factors: float, size: int) -> list[float]:
    """Return what the cost of a step is a sum of.

    Ratings, times the factors, times the tenfolds of a process' ratings above 100,000 (rows and
    pages leave the caches); parameters; the step itself; and inner products over processes.
    """
    own = 2 * (factors + 2) * users / size
    shared = 2 * (2 * factors + 2) * items
    here = n / size
    tenfolds = max(0.0, math.log10(here / 1e5))
    return [here, here * factors, here * tenfolds, own + shared, 1.0, float(size > 1)]


def fitted(cases: list[dict[str, Any]]) -> np.ndarray:
    """Return seconds for each feature, by relative errors."""
    rows, seconds = [], []
    for c in cases:
        rows.append(features(c["n"], *SHAPES[c["n"]], c["factors"], c["size"]))
        seconds.append(c["seconds"] - c["exchange"])
    weights = 1 / np.array(seconds)
    return nnls(np.array(rows) * weights[:, None], np.ones(len(cases)))[0]


def head(title: str) -> list[str]:
    """Return the first lines of a report."""
    return [
        f"# {title}",
        "",
        f"`{' '.join(['python -m benchmarks.sharing', *sys.argv[1:]])}`, "
        f"{datetime.date.today().isoformat()}",
        "",
        "; ".join(f"{name}: {value}" for name, value in machine.describe().items()) + ".",
        "",
    ]


def render_plain(cases: list[dict[str, Any]]) -> str:
    """Return a report without a model of cost."""
    alone = {(c["n"], c["factors"]): c for c in cases if c["size"] == 1}
    lines = [
        *head("Seconds and memory of a step"),
        "| ratings | K | processes | s a step | ns a rating | times as fast | GiB a process |",
        "|" + "---|" * 7,
    ]
    for c in cases:
        one = alone.get((c["n"], c["factors"]), c)
        lines.append(
            f"| {c['n']:,} | {c['factors']} | {c['size']} | {c['seconds']:.3g} | "
            f"{c['seconds'] / c['n'] * 1e9:.0f} | {one['seconds'] / c['seconds']:.2f} | "
            f"{c['memory'] / 1024:.2f} |"
        )
    told = "*Seconds a step*, or a sweep: median of the later half of them."
    return "\n".join([*lines, "", told]) + "\n"


def render(cases: list[dict[str, Any]], held_out: list[int]) -> str:
    """Return the report of VI."""
    used = [c for c in cases if c["n"] not in held_out]
    cost = fitted(used if used else cases)
    alone = {(c["n"], c["factors"]): c for c in cases if c["size"] == 1}
    lines = [
        *head("Processes that share a fit"),
        "| ratings | K | processes | s a step | ns a rating | times as fast | exchange, ms | "
        "GiB a process | of one | ELBO differs by | model, s |",
        "|" + "---|" * 11,
    ]
    for c in cases:
        one = alone.get((c["n"], c["factors"]), c)
        shape = SHAPES[c["n"]]
        predicted = features(c["n"], *shape, c["factors"], c["size"]) @ cost + c["exchange"]
        held = " (held out)" if c["n"] in held_out else ""
        lines.append(
            f"| {c['n']:,} | {c['factors']} | {c['size']} | {c['seconds']:.3g} | "
            f"{c['seconds'] / c['n'] * 1e9:.0f} | {one['seconds'] / c['seconds']:.2f} | "
            f"{1e3 * c['exchange']:.1f} | {c['memory'] / 1024:.2f} | "
            f"{c['memory'] / one['memory']:.2f} | {abs(c['elbo'] / one['elbo'] - 1):.0e} | "
            f"{predicted:.3g}{held} |"
        )
    return "\n".join([*lines, "", *model_of_cost(cost)]) + "\n"


def model_of_cost(cost: np.ndarray) -> list[str]:
    """Return the model of cost, and what it says of a billion ratings."""
    names = (
        "rating",
        "rating and factor",
        "rating and tenfold of 100,000 ratings in a process",
        "parameter in a process",
        "step",
        "step that processes share",
    )
    told = ", ".join(f"{1e9 * x:.3g} ns a {name}" for x, name in zip(cost, names, strict=True))
    b = BILLION
    compute = features(b["n"], b["users"], b["items"], b["factors"], int(b["size"])) @ cost
    exchanged = 2 * (2 * b["factors"] + 2) * b["items"] * 4
    sent = 2 * (b["size"] - 1) / b["size"] * exchanged / b["bandwidth"]
    return [
        f"Model of cost: {told}; and the exchange.",
        "",
        f"A billion ratings of {b['users']:,.0f} users and {b['items']:,.0f} items, K = 16, on "
        f"{b['size']:.0f} processes with one thread each and {b['bandwidth'] / 1e9:.2f} GB/s "
        f"between them: {compute:.2g} s a step, and {sent:.2g} s for {exchanged / 1e6:.0f} MB.",
        "",
        "*Seconds a step*: median of the later half of the steps. *Exchange*: one all-reduce of "
        "the gradient of all items. *ELBO differs by*: of the first step, from one process.",
    ]


if __name__ == "__main__":
    main()
