"""Draws of all chains of a fit, in memory and in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_pmf.inference.checkpoint import OpenCheckpoint
from pyro_pmf.inference.mcmc.tracking import Tracker

_FEWEST = 4  # draws of a chain that are worth having


@dataclass(frozen=True)
class Chain:
    """Draws of one chain.

    Attributes
    ----------
    latents : dict of str to Tensor, shape (n_draws, ...)
        Draws of each latent site of the model, on the CPU.
    steps : list of dict
        One row per draw, see `Learned.steps`.
    tracker : Tracker or None
        Moments of the predictions of `Gibbs.track`.
    """

    latents: dict[str, Tensor]
    steps: list[dict[str, Any]]
    tracker: Tracker | None = None


@dataclass(frozen=True)
class Begun:
    """A chain that a checkpoint holds.

    Attributes
    ----------
    drawn : Chain
        Its draws.
    state : dict or None
        Everything that it needs to continue; None if it is complete.
    """

    drawn: Chain
    state: dict[str, Any] | None


class Continuable(Protocol):
    """A chain under way."""

    number: int

    def so_far(self) -> Chain:
        """Return the draws so far."""

    def present_state(self) -> dict[str, Any] | None:
        """Return everything that the chain needs to continue; None if it has to begin anew."""


class Gathered:
    """Draws of all chains, one chain after the other; with a checkpoint, on the disk too.

    Each write adds the draws that are new, so all writes together take as long as writing all
    draws once.

    Parameters
    ----------
    n_chains, n_draws : int
        Number of chains, and of draws of each.
    checkpoint : OpenCheckpoint or None
        Where the draws are written.

    Attributes
    ----------
    latents : dict of str to Tensor, shape (n_chains * n_draws, ...)
        Draws by site; those of chains to come are not set.
    steps : list of dict
        Rows of all draws.
    trackers : list of Tracker
        One for each chain, if pairs are tracked.
    """

    def __init__(self, n_chains: int, n_draws: int, checkpoint: OpenCheckpoint | None) -> None:
        self.latents: dict[str, Tensor] = {}
        self.steps: list[dict[str, Any]] = []
        self.trackers: list[Tracker] = []
        self._n_chains, self._n_draws, self._checkpoint = n_chains, n_draws, checkpoint
        self._saved: dict[str, Any] = {"n_complete": 0, "trackers": [], "running": None}
        if checkpoint is not None:
            self._saved = checkpoint.take_state() or self._saved
        self._n_written = [0] * n_chains

    def begun(self, number: int) -> Begun | None:
        """Return a chain that the checkpoint holds; None if it has to begin.

        Parameters
        ----------
        number : int
            Number of the chain, from 0. Chains are asked for in order.
        """
        n_complete, running = self._saved["n_complete"], self._saved["running"]
        is_complete = number < n_complete
        if self._checkpoint is None or not (is_complete or (number == n_complete and running)):
            return None
        parts = [*self._checkpoint.parts(number)]
        steps = [row for part in parts for row in part["steps"]]
        self._n_written[number] = len(steps)
        sites = parts[0]["latents"] if parts else ()
        latents = {name: torch.cat([part["latents"][name] for part in parts]) for name in sites}
        return Begun(Chain(latents, steps), None if is_complete else running)

    def restore_tracker(self, number: int, tracker: Tracker | None) -> Tracker | None:
        """Return the tracker of a complete chain, with the sums that the checkpoint holds."""
        if tracker is not None:
            tracker.restore(self._saved["trackers"][number])
        return tracker

    def add(self, chain: Chain) -> None:
        """Add a chain; the last one may have ended early. A complete one is written if it is new.

        Parameters
        ----------
        chain : Chain
            The next chain.
        """
        number = len(self.steps) // self._n_draws
        here = slice(len(self.steps), len(self.steps) + len(chain.steps))
        self.steps += chain.steps
        if chain.tracker is not None:
            self.trackers.append(chain.tracker)
        for name, draws in chain.latents.items():
            if name not in self.latents:
                shape = self._n_chains * self._n_draws, *draws.shape[1:]
                self.latents[name] = draws.new_empty(shape)
            self.latents[name][here] = draws
        # A chain from the checkpoint must not be written: the next one may be under way there.
        if self._n_written[number] < len(chain.steps) == self._n_draws:
            self.write()

    def is_whole(self) -> bool:
        """Return whether all chains are complete."""
        return len(self.steps) == self._n_chains * self._n_draws

    def write(self, running: Continuable | None = None) -> None:
        """Write what is new, if there is a checkpoint.

        Parameters
        ----------
        running : Continuable, optional
            The chain under way. If it cannot be continued, nothing is written.
        """
        if self._checkpoint is None:
            return
        state = None if running is None else running.present_state()
        if running is not None and state is None:
            return
        n_complete, n_draws = len(self.steps) // self._n_draws, self._n_draws
        counts = list(self._n_written)
        parts = []
        for k in range(n_complete):
            if counts[k] < n_draws:
                rows = slice(k * n_draws + counts[k], (k + 1) * n_draws)
                parts.append((k, _part(self.latents, self.steps, rows)))
                counts[k] = n_draws
        if running is not None:
            drawn, k = running.so_far(), running.number
            if counts[k] < len(drawn.steps):
                rows = slice(counts[k], len(drawn.steps))
                parts.append((k, _part(drawn.latents, drawn.steps, rows)))
                counts[k] = len(drawn.steps)
        trackers = [tracker.present_state() for tracker in self.trackers]
        record = {"n_complete": n_complete, "trackers": trackers, "running": state}
        if self._checkpoint.write(record, parts, finished=self.is_whole()):
            self._n_written = counts

    def equal_chains(self) -> tuple[Chain, list[Tracker], int]:
        """Return as many draws of each chain: all, or of an interrupted fit as many as possible.

        Returns
        -------
        chains : Chain
            The draws, one chain after the other.
        trackers : list of Tracker
            The trackers of these chains.
        n_chains : int
            Number of these chains. The last chain is left out if more draws are left without it.

        Raises
        ------
        KeyboardInterrupt
            If no chain has a few draws.
        """
        if self.is_whole():
            return Chain(self.latents, self.steps), self.trackers, self._n_chains
        n_complete, n_last = divmod(len(self.steps), self._n_draws)
        n_chains, n = n_complete, self._n_draws
        if n_last >= _FEWEST and (n_complete + 1) * n_last >= n_complete * n:
            n_chains, n = n_complete + 1, n_last
        if not n_chains:
            raise KeyboardInterrupt(
                f"This fit was interrupted before a chain had {_FEWEST} draws after the warm-up, "
                "so there is nothing to return. With checkpoint=PATH, the next fit can continue "
                "from there by resume=True."
            )
        rows = [k * self._n_draws + i for k in range(n_chains) for i in range(n)]
        latents = {name: draws[rows] for name, draws in self.latents.items()}
        return Chain(latents, [self.steps[i] for i in rows]), self.trackers[:n_chains], n_chains


def _part(
    latents: Mapping[str, Tensor], steps: list[dict[str, Any]], rows: slice
) -> dict[str, Any]:
    drawn = {name: draws[rows] for name, draws in latents.items()}
    return {"latents": drawn, "steps": steps[rows]}
