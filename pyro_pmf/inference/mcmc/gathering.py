"""Draws of all chains of a fit, in memory and in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_pmf.inference.checkpoint import OpenCheckpoint
from pyro_pmf.inference.sharing import Sharing
from pyro_pmf.model.terms import Terms

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
    sums : dict or None
        Sums over the predictions of `Gibbs.track`, see `Tracker.present_state`.
    """

    latents: dict[str, Tensor]
    steps: list[dict[str, Any]]
    sums: dict[str, Any] | None = None

    def after(self, n: int) -> Chain:
        """Return the draws after the first n."""
        latents = {name: draws[n:] for name, draws in self.latents.items()}
        return Chain(latents, self.steps[n:], self.sums)

    def copied(self) -> Chain:
        """Return the same draws in memory of their own, which has no others."""
        return Chain({name: x.clone() for name, x in self.latents.items()}, self.steps, self.sums)


@dataclass(frozen=True)
class Begun:
    """A chain that has begun.

    Attributes
    ----------
    drawn : Chain
        Its draws.
    state : dict or None
        Everything that it needs to continue; None if it has to begin anew, or is complete.
    """

    drawn: Chain
    state: dict[str, Any] | None


@dataclass
class _Kept:
    """How much of a chain a checkpoint should hold: its first draws, and what is so after them."""

    n_draws: int = 0
    state: dict[str, Any] | None = None
    sums: dict[str, Any] | None = None


class Gathered:
    """Draws of all chains, one chain after the other; with a checkpoint, on the disk too.

    Chains may come in pieces, in any order. Each write adds the draws that are new, so all writes
    together take as long as writing all draws once.

    Parameters
    ----------
    n_chains, n_draws : int
        Number of chains, and of draws of each.
    checkpoint : OpenCheckpoint or None
        Where the draws are written, and read if the fit continues.
    sharing : Sharing, optional
        The part of this process in the fit. The checkpoint has the draws of all parts.
    terms : Terms
        Terms of the model.
    """

    def __init__(
        self,
        n_chains: int,
        n_draws: int,
        checkpoint: OpenCheckpoint | None,
        sharing: Sharing | None = None,
        terms: Terms | None = None,
    ) -> None:
        self._sharing, self._terms = sharing, Terms() if terms is None else terms
        self._latents: dict[str, Tensor] = {}
        self._steps: list[list[dict[str, Any]]] = [[] for _ in range(n_chains)]
        self._sums: list[dict[str, Any] | None] = [None] * n_chains
        self._n_draws, self._checkpoint = n_draws, checkpoint
        self._kept = [_Kept() for _ in range(n_chains)]
        saved = None if checkpoint is None else checkpoint.take_state()
        if checkpoint is not None and saved is not None:
            for number, chain in enumerate(saved["chains"]):
                for part in checkpoint.parts(number):
                    latents = part["latents"]
                    if sharing is not None:
                        latents = sharing.own_draws(latents, self._terms)
                    self._append(number, Chain(latents, part["steps"]))
                self._sums[number] = chain["sums"]
                self._kept[number] = _Kept(len(self._steps[number]), **chain)
        self._n_written = [kept.n_draws for kept in self._kept]

    def begun(self, number: int) -> Begun:
        """Return what there is of a chain, by its number from 0."""
        n = len(self._steps[number])
        rows = slice(number * self._n_draws, number * self._n_draws + n)
        latents = {name: draws[rows] for name, draws in self._latents.items()}
        drawn = Chain(latents, list(self._steps[number]), self._sums[number])
        return Begun(drawn, self._kept[number].state)

    def n_drawn(self, number: int) -> int:
        """Return the number of draws of a chain, by its number from 0."""
        return len(self._steps[number])

    def is_complete(self, number: int) -> bool:
        """Return whether all draws of a chain are here, by its number from 0."""
        return self.n_drawn(number) == self._n_draws

    def is_whole(self) -> bool:
        """Return whether all chains are complete."""
        return all(len(steps) == self._n_draws for steps in self._steps)

    def add(self, number: int, new: Chain, state: dict[str, Any] | None = None) -> None:
        """Add draws that continue a chain. A chain that they complete is written.

        Parameters
        ----------
        number : int
            Number of the chain, from 0.
        new : Chain
            Its draws after those that are here.
        state : dict, optional
            Everything that it needs to continue after them. Without a state, the next `write`
            leaves out these draws of a chain that is not complete.
        """
        self._append(number, new)
        self._sums[number] = new.sums
        if self.is_complete(number):
            self._kept[number] = _Kept(self._n_draws, None, new.sums)
            self.write()
        elif state is not None:
            self._kept[number] = _Kept(self.n_drawn(number), state, new.sums)

    def add_rest(self, number: int, so_far: Chain, state: dict[str, Any] | None = None) -> None:
        """Add those draws of a chain that are not here; see `add`."""
        self.add(number, so_far.after(self.n_drawn(number)), state)

    def write(self) -> None:
        """Write what is new, if there is a checkpoint."""
        if self._checkpoint is None:
            return
        parts = []
        for number, kept in enumerate(self._kept):
            first, last = self._n_written[number], kept.n_draws
            if first < last:
                offset = number * self._n_draws
                rows = slice(offset + first, offset + last)
                latents = {name: draws[rows] for name, draws in self._latents.items()}
                if self._sharing is not None:
                    latents = self._sharing.draws(latents, self._terms)
                part = {"latents": latents, "steps": self._steps[number][first:last]}
                parts.append((number, part))
        chains = [{"state": kept.state, "sums": kept.sums} for kept in self._kept]
        written = self._checkpoint.write({"chains": chains}, parts, finished=self.is_whole())
        if self._sharing is not None:
            written = not self._sharing.reducer.any(not written)
        if written:
            self._n_written = [kept.n_draws for kept in self._kept]

    def equal_chains(self) -> tuple[Chain, list[dict[str, Any]], int]:
        """Return as many draws of each chain: all, or of an interrupted fit as many as possible.

        Returns
        -------
        chains : Chain
            The draws, one chain after the other.
        sums : list of dict
            Sums over the predictions of `Gibbs.track`, of each of these chains.
        n_chains : int
            Number of these chains. The shortest chains are left out if more draws are left
            without them.

        Raises
        ------
        KeyboardInterrupt
            If no chain has a few draws.
        """
        lengths = [len(steps) for steps in self._steps]
        worth = {n for n in lengths if n >= _FEWEST}
        if not worth:
            raise KeyboardInterrupt(
                f"This fit was interrupted before a chain had {_FEWEST} draws after the warm-up, "
                "so there is nothing to return. With checkpoint=PATH, the next fit can continue "
                "from there by resume=True."
            )
        numbers = {n: [k for k, length in enumerate(lengths) if length >= n] for n in worth}
        n = max(worth, key=lambda n: (n * len(numbers[n]), -n))
        latents = self._latents
        if not self.is_whole():
            rows = [k * self._n_draws + i for k in numbers[n] for i in range(n)]
            latents = {name: draws[rows] for name, draws in latents.items()}
        steps = [row for k in numbers[n] for row in self._steps[k][:n]]
        sums = [sums for k in numbers[n] if (sums := self._sums[k]) is not None]
        return Chain(latents, steps), sums, len(numbers[n])

    def _append(self, number: int, new: Chain) -> None:
        first = number * self._n_draws + self.n_drawn(number)
        for name, draws in new.latents.items():
            if name not in self._latents:
                shape = len(self._steps) * self._n_draws, *draws.shape[1:]
                self._latents[name] = draws.new_empty(shape)
            self._latents[name][first : first + len(draws)] = draws
        self._steps[number] += new.steps
