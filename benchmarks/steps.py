"""Time a step of a fit and its kernels, for growing numbers of ratings.

python -m benchmarks.steps                     # five minutes on two cores
python -m benchmarks.steps --device cuda       # on a GPU, and on the CPU
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyro
import torch
from matplotlib import pyplot
from torch import Tensor, fx

from benchmarks import machine
from benchmarks.data import DATA
from benchmarks.one import memory, start_memory_peak
from benchmarks.peers import article
from pyro_pmf import MAP, PMF, VI, Fixed, Priors, Progress, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.variational.objective import pose

RESULTS = Path(__file__).parent / "results"
N_FACTORS = 16
METHODS = {"vi": VI, "map": MAP}
NAMES = {"vi": "VI, both sides", "map": "MAP, both sides"}
COLORS = {"vi": "tab:red", "map": "tab:orange"}
SMALL = "movielens-small"
# By number of ratings: users and items of the simulated sets, about as in MovieLens 1M and 10M.
SIMULATED = {1_000_000: (6_000, 4_000), 3_000_000: (20_000, 7_000), 10_000_000: (70_000, 10_000)}
FIRST, LAST = 46, 65  # steps that are timed: L-BFGS no longer holds standard deviations
DENSE_FACTORS = 30


def main() -> None:
    """Measure each case in its own process, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ratings", nargs="*", type=int, default=list(SIMULATED))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("DATA", "METHOD", "DEVICE"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    devices = ["cpu"] if options.device == "cpu" else ["cpu", "cuda"]
    cases = [
        apart([data, method, device])
        for data in (SMALL, *map(str, options.ratings))
        for method in METHODS
        for device in devices
    ]
    results = {
        "command": f"python -m benchmarks.steps {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "copy_bandwidth": {device: copy_bandwidth(device) for device in devices},
        "cases": cases,
        "dense": apart([SMALL, "dense", "cpu"]),
    }
    (options.out / "steps.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "steps.md").write_text(render(results))
    draw(results, options.out / "seconds_a_step.png")
    print(render(results))


def apart(case: list[str]) -> dict[str, Any]:
    """Measure one case in its own process."""
    command = [sys.executable, "-m", "benchmarks.steps", "--one", *case]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(case)} failed:\n{done.stderr[-2000:]}")
    print(" ".join(case), done.stdout.splitlines()[-1][:200], file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(data: str, method: str, device: str) -> dict[str, Any]:
    """Time the steps of one fit; in a second fit, add up the time of their kernels."""
    warnings.simplefilter("ignore")  # a fit this short has not converged
    train = training_ratings(data)
    if method == "dense":
        return dense(train)
    model = PMF(N_FACTORS, users="hierarchical", items="hierarchical")
    short = METHODS[method](max_steps=LAST, learn_scales=None)
    before = start_memory_peak()
    timed = fit(model, train, short, device=device, progress=False)
    added = memory("VmHWM") - before
    seconds = timed.steps["seconds"]
    step = seconds.diff()[FIRST - 1 :]
    parameters, moved = traffic(model, train, short, device)
    return {
        "data": data,
        "method": method,
        "device": device,
        "n_ratings": len(train),
        "n_users": train.n_users,
        "n_items": train.n_items,
        "n_parameters": parameters,
        "first_step_seconds": seconds.iloc[0],
        "step_seconds": step.median(),
        "kernel_seconds": kernel_seconds(model, train, short, device),
        "bytes_of_evaluation": moved,
        "memory_mib": added,
        "elbo": timed.steps["elbo"].iloc[-1],
    }


def training_ratings(data: str) -> Ratings:
    """Return nine tenths of a real data set, or simulated ratings, whose name is their number."""
    if data in DATA:
        read, scale = DATA[data]
        return Ratings.from_frame(read(), scale=scale).split(test_fraction=0.1, seed=0)[0]
    scales = {"sigma": 0.18, "sigma_U": 0.3, "sigma_V": 0.3, "sigma_b": 0.4, "sigma_c": 0.6}
    known = {name: Fixed(value) for name, value in scales.items()}
    priors = Priors(mu=Fixed(0.5), tau=Fixed(1.0), **known)
    return simulate(PMF(8, priors=priors), *SIMULATED[int(data)], int(data), seed=0)[0]


def kernel_seconds(model: PMF, train: Ratings, method: VI | MAP, device: str) -> float:
    """Return the seconds of a step that torch's profiler counts inside operations."""
    on = torch.profiler.ProfilerActivity
    activities = [on.CPU, on.CUDA] if device == "cuda" else [on.CPU]
    profiler = torch.profiler.profile(activities=activities)

    def callback(progress: Progress) -> None:
        if progress.step == FIRST - 1:
            profiler.start()
        if progress.step == LAST:
            profiler.stop()

    fit(model, train, method, device=device, progress=False, callback=callback)
    where = "device" if device == "cuda" else "cpu"
    total = sum(getattr(event, f"self_{where}_time_total") for event in profiler.key_averages())
    return total / 1e6 / (LAST - FIRST + 1)


def traffic(model: PMF, train: Ratings, method: VI | MAP, device: str) -> tuple[int, int]:
    """Count the parameters, and the bytes that one loss and gradient read and write."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        objective = pose(model, train.to(device), method)
        leaves = [leaf for _, leaf in objective.parameters()]
        recording = objective.recorded_gradient(leaves)
        counter = _Traffic(fx.GraphModule(torch.nn.Module(), recording.graph))
        counter.run(*recording.inputs)
    return sum(leaf.numel() for leaf in leaves), counter.bytes


class _Traffic(fx.Interpreter):
    """Adds up the bytes that each operation reads and writes; views move nothing."""

    bytes = 0

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        result = super().call_function(target, args, kwargs)
        if isinstance(result, Tensor):
            given = [x for x in args if isinstance(x, Tensor)]
            if all(result.untyped_storage().data_ptr() != _storage(x) for x in given):
                # an expanded number is read once
                self.bytes += sum(min(_size(x), x.untyped_storage().nbytes()) for x in given)
                self.bytes += _size(result)
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def copy_bandwidth(device: str) -> float:
    """Return the bytes that a large copy reads and writes in a second."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return 2 * _size(source) / shortest(lambda: target.copy_(source), device)


def dense(train: Ratings) -> dict[str, Any]:
    """Time the article's step over all cells, and the step of the same model here."""
    U = torch.randn(train.n_users, DENSE_FACTORS, requires_grad=True)
    V = torch.randn(train.n_items, DENSE_FACTORS, requires_grad=True)
    R, observed = torch.zeros(2, train.n_users, train.n_items)
    R[train.user, train.item], observed[train.user, train.item] = train.value, 1.0
    optimizer = torch.optim.Adam([U, V], lr=0.03)

    def step() -> None:
        optimizer.zero_grad()
        article.objective(R, observed, U, V, 0.4, 0.4).backward()
        optimizer.step()

    model = PMF(DENSE_FACTORS, biases=False, means=False)
    steps = fit(model, train, MAP(max_steps=200, learn_scales=None), progress=False).steps
    return {
        "n_ratings": len(train),
        "n_users": train.n_users,
        "n_items": train.n_items,
        "article_seconds": shortest(step, "cpu"),
        "seconds": steps["seconds"].diff()[100:].median(),
    }


def shortest(run: Callable[[], Any], device: str, times: int = 10) -> float:
    """Return the shortest of several times, after one run that does not count."""
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def render(results: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    facts = [
        ", ".join(f"{name}: {value}" for name, value in results[part].items()) + "."
        for part in ("machine", "versions")
    ]
    lines = ["# Seconds a step", "", f"`{results['command']}`, {results['date']}", ""]
    lines += [facts[0], "", facts[1], ""]
    lines += [
        f"K = {N_FACTORS}, hierarchical users and items. VI takes steps of L-BFGS, with 1.1 "
        "evaluations on average; MAP takes steps of Adam.",
        "",
        "| | device | ratings | parameters | first step after, s | step, ms | its kernels, ms "
        "| step / kernels | step, ns a rating | floor, ms | memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        step, kernels = case["step_seconds"], case["kernel_seconds"]
        floor = case["bytes_of_evaluation"] / results["copy_bandwidth"][case["device"]]
        cells = [
            NAMES[case["method"]],
            case["device"],
            f"{case['n_ratings']:,}",
            f"{case['n_parameters']:,}",
            f"{case['first_step_seconds']:.2f}",
            f"{1e3 * step:.2f}",
            f"{1e3 * kernels:.2f}",
            f"{step / kernels:.2f}",
            f"{1e9 * step / case['n_ratings']:.0f}",
            f"{1e3 * floor:.2f}",
            f"{case['memory_mib']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    dense = results["dense"]
    ratio = dense["article_seconds"] / dense["seconds"]
    lines += [
        "",
        f"The article's step over all {dense['n_users']:,} x {dense['n_items']:,} cells, "
        f"{DENSE_FACTORS} factors: {1e3 * dense['article_seconds']:.1f} ms; MAP of the same model "
        f"here: {1e3 * dense['seconds']:.2f} ms, {ratio:.0f} times less.",
        "",
        *agreement(results["cases"]),
        NOTES,
    ]
    return "\n".join(lines)


NOTES = """*First step after* counts from the call of `fit` and includes the recording of the step.
*Step* is the median of steps 46 to 65, with the optimiser and the loop. *Its kernels* is the self
time of all operations by torch's profiler, in a second fit. *Floor* is the number of bytes that
the operations of one loss and gradient read and write, over the bandwidth of a large copy; data
that stay in a cache can be faster. *Memory* is the peak of the fit minus the resident memory
before it.
"""


def agreement(cases: list[dict[str, Any]]) -> list[str]:
    """Compare the ELBO on the GPU with the ELBO on the CPU, after as many steps."""
    elbos = {(case["data"], case["method"], case["device"]): case["elbo"] for case in cases}
    lines = []
    for (data, method, device), elbo in elbos.items():
        if device == "cuda":
            apart = abs(elbo / elbos[data, method, "cpu"] - 1)
            lines.append(f"ELBO of {NAMES[method]}, {data}: GPU and CPU differ by {apart:.1e}.")
    return [*lines, ""] if lines else []


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw seconds a step against the number of ratings into a PNG file."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, ax = pyplot.subplots(figsize=(6.0, 4.2), layout="constrained")
        for method, name in NAMES.items():
            for device, line in {"cpu": "-", "cuda": "--"}.items():
                own = [
                    case
                    for case in results["cases"]
                    if (case["method"], case["device"]) == (method, device)
                ]
                if own:
                    x = [case["n_ratings"] for case in own]
                    y = [case["step_seconds"] for case in own]
                    label = name if device == "cpu" else f"{name}, GPU"
                    ax.loglog(x, y, line, color=COLORS[method], marker="o", label=label)
        dense = results["dense"]
        point = dense["n_ratings"], dense["article_seconds"]
        ax.loglog(*point, "s", color="tab:brown", label="the article, all cells")
        ax.set(xlabel="Training ratings", ylabel="Seconds a step")
        ax.legend(frameon=False)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


if __name__ == "__main__":
    main()
