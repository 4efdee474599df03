"""Unconstrained coordinates in which the posterior of a model is sampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import FitError
from pyro_pmf.inference.centring import centring_for_sampling
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.recording import NotRecordable, Recording
from pyro_pmf.model.running import trace_of


class Coordinates:
    """Unconstrained coordinates z of a model's latents, and the potential energy of each z.

    The Normal sites of a `PMF` are partly centred (see `centring`).

    Parameters
    ----------
    model : callable
        A Pyro model.
    ratings : Ratings
        The training ratings.

    Attributes
    ----------
    sites : dict of str to torch.Size
        Shapes of the latent sites of the model as stated.

    Raises
    ------
    FitError
        If a latent is discrete.
    """

    def __init__(self, model: Callable[..., Any], ratings: Ratings) -> None:
        self._ratings = ratings
        stated = dict(trace_of(model, ratings).iter_stochastic_nodes())
        for name, site in stated.items():
            if site["fn"].has_enumerate_support:
                raise FitError(
                    f"Site {name!r} is discrete, and chains sample only continuous latents: sum "
                    "it out in the model."
                )
        self.sites = {name: site["value"].shape for name, site in stated.items()}
        self._model = model
        if reparametrized := centring_for_sampling(model, ratings):
            self._model = poutine.reparam(model, reparametrized)
        first, self._energy, self._transforms, _ = self._initialized()
        self._shapes = {name: tensor.shape for name, tensor in first.items()}
        self._play = self._recorded(self._packed(first))

    @property
    def n_latents(self) -> int:
        """Number of entries of all latent sites."""
        return sum(shape.numel() for shape in self.sites.values())

    def first(self) -> Tensor:
        """Return initial coordinates, from torch's random state."""
        return self._packed(self._initialized()[0])

    def draw(self, z: Tensor) -> tuple[dict[str, Tensor], float]:
        """Return the stated latents at some coordinates, and their log likelihood.

        Parameters
        ----------
        z : Tensor, shape (n,)
            Coordinates.

        Returns
        -------
        latents : dict of str to Tensor
            Values by site.
        log_likelihood : float
            Of the training ratings, in nats.
        """
        values = {
            name: self._transforms[name].inv(x) if name in self._transforms else x
            for name, x in self._unpacked(z).items()
        }
        with torch.no_grad(), pyro.validation_enabled(False):
            trace = trace_of(poutine.condition(self._model, data=values), self._ratings)
            trace.compute_log_prob(lambda name, _: name == "rating")
        log_likelihood = float(trace.nodes["rating"]["log_prob_sum"])
        return {name: trace.nodes[name]["value"] for name in self.sites}, log_likelihood

    def potential(self, z: Tensor) -> Tensor:
        """Return minus the log density of coordinates, up to a constant, with a gradient.

        Parameters
        ----------
        z : Tensor, shape (n,)
            Coordinates.

        Returns
        -------
        Tensor, shape ()
            Potential energy, in nats.
        """
        if self._play is None:
            return self._energy(self._unpacked(z))
        return _Played.apply(z, self._play)

    def potential_of_site(self, site: Mapping[str, Tensor]) -> Tensor:
        """Return the potential in the form that Pyro's kernels call.

        Parameters
        ----------
        site : mapping of str to Tensor
            Coordinates of shape (n,) under the name "z".

        Returns
        -------
        Tensor, shape ()
            Potential energy, in nats.
        """
        return self.potential(site["z"])

    def _initialized(self) -> Any:
        return initialize_model(
            self._model, model_args=(self._ratings,), init_strategy=initial_value
        )

    def _recorded(self, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
        """Record the energy and its gradient; None if Python takes part in it or it is random."""
        leaf = x.clone().requires_grad_()

        def gradient() -> tuple[Tensor, ...]:
            energy = self._energy(self._unpacked(leaf))
            return energy.detach(), *torch.autograd.grad(energy, leaf)

        try:
            with pyro.validation_enabled(False):
                recording = Recording(gradient, varying=[leaf])
        except NotRecordable:
            return None
        if recording.is_random:
            return None
        inputs = tuple(recording.inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            played = torch.jit.trace(  # on small tensors, Python would take most of the time
                lambda *inputs: recording.play(*inputs), inputs, check_trace=False
            )

        def play(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                leaf.data.copy_(x)
                with interruptions_as_they_are():
                    energy, slope = played(*inputs)
            return energy.clone(), slope.clone()

        return play

    def _packed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate tensors: Pyro's kernels handle each name separately, which takes time."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])

    def _unpacked(self, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([shape.numel() for shape in self._shapes.values()])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


@contextmanager
def interruptions_as_they_are() -> Iterator[None]:
    """Raise a Ctrl-C as such: torch's interpreter makes a RuntimeError of it, with its name."""
    try:
        yield
    except RuntimeError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        raise


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, play: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        energy, slope = play(x)
        ctx.save_for_backward(slope)
        return energy

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None
