"""Markov chains: Pyro's No-U-Turn sampler, on the density of a model recorded once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.mcmc.util import initialize_model
from pyro.infer.reparam import LocScaleReparam
from pyro.ops.stats import split_gelman_rubin
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Independent, Normal
from tqdm.auto import tqdm

from pyro_pmf.guides import initial_value
from pyro_pmf.models import PMF
from pyro_pmf.ratings import Ratings
from pyro_pmf.recording import NotRecordable, Recording

_ACCEPTANCE = 0.9  # more than the usual 0.8: the scales of few ratings make narrow necks
_R_HAT = 1.05


@dataclass(frozen=True)
class Chains:
    """What Markov chains have drawn.

    Attributes
    ----------
    latents : dict of str to Tensor
        Draws of each latent site of the model, chain by chain, (num_chains * num_draws, ...).
    history : pandas.DataFrame
        One row a draw: step (from 1), chain, log_joint (nats), divergent, seconds.
    converged : bool
        Whether no draw diverged and split R-hat is below 1.05 for every scalar site and the log
        joint density (Vehtari et al., Bayesian Analysis 2021).
    """

    latents: dict[str, Tensor]
    history: pd.DataFrame
    converged: bool


def sample_chains(
    model: Callable[..., Any],
    ratings: Ratings,
    num_draws: int,
    warm_up: int,
    num_chains: int,
    progress: bool,
) -> Chains:
    """Draw from the exact posterior, from torch's random state.

    The Normal sites of a `PMF` are sampled in non-centred form, as suits ratings that are few: for
    those this is meant, as a measure of faster methods.
    """
    started = time.perf_counter()
    stated = _trace(model, ratings)
    sites = {name: site["fn"] for name, site in stated.iter_stochastic_nodes()}
    sampled = model
    if isinstance(model, PMF):
        rows = [name for name, fn in sites.items() if isinstance(_base(fn), Normal) and fn.shape()]
        sampled = poutine.reparam(model, {name: LocScaleReparam(0.0) for name in rows})
    latents: dict[str, list[Tensor]] = {name: [] for name in sites}
    rows_of_history: list[dict[str, Any]] = []
    total = num_chains * (warm_up + num_draws)
    with tqdm(total=total, desc="sample", unit="draw", disable=not progress) as bar:
        for chain in range(num_chains):
            initial, potential, transforms, _ = initialize_model(
                sampled, model_args=(ratings,), init_strategy=initial_value
            )
            unpack = _Packing(initial)
            kernel = NUTS(
                potential_fn=_recorded(potential, unpack), target_accept_prob=_ACCEPTANCE
            )
            adapter = kernel._adapter  # Stan's windows keep to unit masses for 100 draws
            adapter._adapt_start_buffer = adapter._adapt_initial_window = 10
            adapter._adapt_end_buffer = 30
            chains = MCMC(
                kernel,
                num_samples=num_draws,
                warmup_steps=warm_up,
                initial_params={"z": unpack.vector},
                disable_progbar=True,
                hook_fn=lambda *_: bar.update(),
            )
            chains.run()
            divergent = set(chains.diagnostics()["divergences"]["chain 0"])
            unconstrained = unpack(chains.get_samples()["z"])
            values = {
                name: transforms[name].inv(x) if name in transforms else x
                for name, x in unconstrained.items()
            }
            for k in range(num_draws):
                draw = {name: value[k] for name, value in values.items()}
                with torch.no_grad(), pyro.validation_enabled(False):
                    nodes = _trace(poutine.condition(sampled, data=draw), ratings).nodes
                    found = {name: nodes[name]["value"] for name in sites}
                    trace = _trace(poutine.condition(model, data=found), ratings)
                for name in sites:
                    latents[name].append(found[name])
                rows_of_history.append(
                    {
                        "step": len(rows_of_history) + 1,
                        "chain": chain,
                        "log_joint": float(trace.log_prob_sum()),
                        "divergent": k in divergent,
                        "seconds": time.perf_counter() - started,
                    }
                )
    history = pd.DataFrame(rows_of_history)
    stacked = {name: torch.stack(values) for name, values in latents.items()}
    return Chains(stacked, history, _mixed(stacked, history, num_chains))


def _mixed(latents: Mapping[str, Tensor], history: pd.DataFrame, num_chains: int) -> bool:
    scalars = [value for value in latents.values() if value.dim() == 1]
    scalars.append(torch.tensor(history["log_joint"].to_numpy(copy=True)))
    by_chain = torch.stack(scalars, -1).unflatten(0, (num_chains, -1))
    if by_chain.shape[1] < 4 or history["divergent"].any():
        return False
    return bool((split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1) < _R_HAT).all())


def _trace(model: Callable[..., Any], ratings: Ratings) -> Any:
    return prune_subsample_sites(poutine.trace(model).get_trace(ratings))


class _Packing:
    """Named tensors as one vector: the sampler works on each name by itself, which takes time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.vector = torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])

    def __call__(self, vectors: Tensor) -> dict[str, Tensor]:
        """Take vectors apart, shape (..., n)."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), vectors.split(sizes, -1), strict=True)
        return {name: part.reshape(part.shape[:-1] + shape) for (name, shape), part in parts}


def _recorded(
    potential: Callable[[dict[str, Tensor]], Tensor], unpack: _Packing
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Play a potential energy and its gradient, where Python has no part in them."""
    vector = unpack.vector.clone().requires_grad_()

    def gradient() -> tuple[Tensor, ...]:
        energy = potential(unpack(vector))
        return energy.detach(), *torch.autograd.grad(energy, vector)

    def evaluated(z: dict[str, Tensor]) -> Tensor:
        return potential(unpack(z["z"]))

    try:
        with pyro.validation_enabled(False):
            recording = Recording(gradient, varying=[vector])
    except NotRecordable:
        return evaluated
    if recording.is_random:
        return evaluated
    play = _interpreted(recording)

    class Played(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            vector.data.copy_(z)
            energy, slope = play()
            ctx.save_for_backward(slope.clone())
            return energy.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.saved_tensors[0]

    return lambda z: Played.apply(z["z"])


def _interpreted(recording: Recording) -> Callable[[], tuple[Tensor, ...]]:
    """Have torch's own interpreter play a recording: of small tensors, most time is Python's."""
    inputs = tuple(recording.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        played = torch.jit.trace(
            lambda *inputs: recording._play(*inputs), inputs, check_trace=False
        )

    def play() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return played(*inputs)

    return play


def _base(fn: Any) -> Any:
    return fn.base_dist if isinstance(fn, Independent) else fn
