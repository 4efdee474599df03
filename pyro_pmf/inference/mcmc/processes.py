"""Chains that run at once, each in a process of its own.

A process is told its task through a pipe, and tells its draws about once a second. Either end
notices when the other one is gone: a process ends after the present step, and the fit says which
chain it misses.
"""

from __future__ import annotations

import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
import torch
from loky import cpu_count
from loky.backend import get_context

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError, PMFError
from pyro_pmf.inference.interruption import Interruption, out_of_reach
from pyro_pmf.inference.mcmc.gathering import Begun, Chain, Gathered
from pyro_pmf.inference.mcmc.running import ChainTask, RunningChain, run_chain
from pyro_pmf.inference.methods import Chains

_PACE = 0.5  # seconds from one message of a chain to the next
_PATIENCE = 1.0  # seconds after which Ctrl-C is noticed without a message
_GRACE = 10.0  # seconds in which a process that has closed its end goes away
_PROCESS = 500_000_000  # bytes of a process that has imported torch and Pyro
_PER_RATING = 90  # bytes of a rating: in the message, and in the process
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class News:
    """Message of a chain.

    Attributes
    ----------
    n_steps : int
        Number of its steps, those of the warm-up included.
    new : Chain
        Its draws since the last message.
    state : dict or None
        Everything that it needs to continue, if a checkpoint needs that.
    is_last : bool
        Whether the chain has ended.
    """

    n_steps: int
    new: Chain
    state: dict[str, Any] | None
    is_last: bool


@dataclass(frozen=True)
class _Failure:
    """Message of a chain that has failed: the reason, and the lines where it happened."""

    reason: str
    where: str = ""


@dataclass(frozen=True)
class _Order:
    """What a process is to do: a chain, where it continues, and how often to tell its state."""

    task: ChainTask
    begun: Begun
    every: float | None


def n_processes(method: Chains, device: torch.device, n_chains: int) -> int:
    """Return the number of chains that run at once; 1 stands for no process beside this one.

    Parameters
    ----------
    method : Gibbs or NUTS
        Options of the sampler.
    device : torch.device
        Device of the fit. Processes would only wait for each other on a GPU.
    n_chains : int
        Number of chains that are to run.
    """
    if device.type != "cpu":
        return 1
    return min(cpu_count() if method.n_jobs == -1 else method.n_jobs, n_chains)


def processes_memory(n: int, ratings: Ratings) -> int:
    """Return the bytes of so many processes, besides their draws; 0 if there is only this one."""
    return n * (_PROCESS + _PER_RATING * len(ratings)) if n > 1 else 0


def run_apart(
    tasks: Sequence[ChainTask],
    n: int,
    gathered: Gathered,
    on_news: Callable[[int, News], None],
    request: Interruption,
    every: float | None,
) -> None:
    """Run chains in processes, until all have ended or were asked to.

    Parameters
    ----------
    tasks : sequence of ChainTask
        Work of the chains.
    n : int
        Number of processes.
    gathered : Gathered
        Where the chains continue, and where their draws go.
    on_news : callable
        Called with the number of a chain and each of its messages, after its draws were added.
    request : Interruption
        Whether all chains shall end after their present steps.
    every : float or None
        Seconds after which the state of a chain is told, for a checkpoint.

    Raises
    ------
    FitError
        If a chain fails, its process is killed, or its model cannot be sent to a process. The
        other chains end after their present steps.
    """
    waiting, failures = deque(tasks), []
    with _started(n) as workers:
        for worker in workers:
            worker.begin(waiting.popleft(), gathered, every)
        while busy := [worker for worker in workers if worker.task is not None]:
            ready = wait([worker.connection for worker in busy], _PATIENCE)
            for worker in busy:
                if worker.task is None or worker.connection not in ready:
                    continue
                task, news = worker.task, worker.hear()
                if isinstance(news, _Failure):
                    failures.append((task, news))
                    continue
                gathered.add(task.number, news.new, news.state)
                on_news(task.number, news)
                if worker.task is None and waiting and not (failures or request.requested):
                    worker.begin(waiting.popleft(), gathered, every)
            if failures or request.requested:
                for worker in busy:
                    worker.stop()
    if failures or request.requested:
        gathered.write()
    if failures:
        raise _error_of(failures, has_checkpoint=every is not None)


class _Worker:
    """A process that runs chains, one after the other, as this one sees it.

    Parameters
    ----------
    n_threads : int
        Number of threads of torch in the process.

    Attributes
    ----------
    connection : Connection
        Its messages.
    task : ChainTask or None
        The chain that it runs.
    """

    def __init__(self, n_threads: int) -> None:
        self.connection, theirs = Pipe()
        self.task: ChainTask | None = None
        self._is_asked_to_stop = False
        self._process = get_context("loky").Process(
            target=_serve,
            args=(theirs, n_threads, torch.get_default_dtype()),
            env=dict.fromkeys(_THREADS, str(n_threads)),
        )
        with out_of_reach():
            self._process.start()
        theirs.close()

    def begin(self, task: ChainTask, gathered: Gathered, every: float | None) -> None:
        """Have it run a chain."""
        begun = gathered.begun(task.number)
        order = _Order(task, Begun(begun.drawn.copied(), begun.state), every)
        try:
            message = cloudpickle.dumps(order)
        except Exception as error:  # whatever an object of the caller's raises
            raise FitError(
                f"The model cannot be sent to another process: {error}. Leave out what cannot be "
                "pickled, or give n_jobs=1."
            ) from error
        self.task = task
        with suppress(OSError):  # then the process is gone, and `hear` says so
            self.connection.send_bytes(message)

    def stop(self) -> None:
        """Ask it to end its chain after the present step."""
        if not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            with suppress(OSError):
                self.connection.send_bytes(b"")

    def hear(self) -> News | _Failure:
        """Return a message that has come; its task is None after the last one."""
        news: News | _Failure
        try:
            news = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self._process.join(_GRACE)
            news = _Failure(_cause_of_death(self._process.exitcode))
        if isinstance(news, _Failure) or news.is_last:
            self.task = None
        return news

    def end(self) -> None:
        """End the process at once."""
        self.connection.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _started(n: int) -> Iterator[list[_Worker]]:
    """Start processes, which share the cores; whatever happens in the block, they end with it."""
    n_threads = max(1, min(torch.get_num_threads(), cpu_count() // n))
    workers: list[_Worker] = []
    try:
        while len(workers) < n:
            workers.append(_Worker(n_threads))
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    with suppress(ValueError):
        name = signal.Signals(-exit_code).name
        kind = ", as systems do where memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{kind}"
    return f"its process was ended by signal {-exit_code}"


def _error_of(failures: Sequence[tuple[ChainTask, _Failure]], has_checkpoint: bool) -> FitError:
    reasons = [f"Chain {task.number} failed: {failure.reason}." for task, failure in failures]
    remedy = (
        "The other chains are in the checkpoint as far as they came: fit again, with resume=True."
        if has_checkpoint
        else "The draws of the other chains are lost; with checkpoint=PATH, a fit can continue."
    )
    error = FitError(" ".join([*reasons, remedy]))
    for task, failure in failures:
        if failure.where:
            error.add_note(f"In the process of chain {task.number}:\n{failure.where}")
    return error


def _serve(connection: Connection, n_threads: int, dtype: torch.dtype) -> None:
    """Run the chains that the fit asks for, until it asks for none or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(n_threads)
    torch.set_default_dtype(dtype)
    with suppress(EOFError, ConnectionError):
        while message := connection.recv_bytes():
            try:
                order: _Order = pickle.loads(message)
                run_chain(order.task, _Reporter(connection, order), order.begun)
            except ConnectionError:
                raise
            except Exception as error:
                reason = str(error).rstrip(".")
                if not isinstance(error, PMFError):
                    reason = f"{type(error).__name__}: {reason}"
                _tell(connection, _Failure(reason, traceback.format_exc()))


class _Reporter:
    """Called after each step of a chain, which it tells of from time to time."""

    def __init__(self, connection: Connection, order: _Order) -> None:
        self._connection, self._every = connection, order.every
        self._n_told = len(order.begun.drawn.steps)
        self._told = self._kept = time.perf_counter()

    def __call__(self, chain: RunningChain) -> bool:
        """Return whether the fit asks the chain to end, or is gone."""
        now, is_stopped = time.perf_counter(), self._connection.poll()
        is_last = is_stopped or chain.is_at_its_end()
        needs_state = self._every is not None and (is_last or now - self._kept >= self._every)
        if is_last or needs_state or now - self._told >= _PACE:
            new = chain.so_far().after(self._n_told).copied()
            state = chain.present_state() if needs_state else None
            _tell(self._connection, News(chain.n_steps, new, state, is_last))
            self._n_told += len(new.steps)
            self._told = now
            self._kept = now if needs_state else self._kept
        return is_stopped


def _tell(connection: Connection, news: News | _Failure) -> None:
    connection.send_bytes(pickle.dumps(news))
