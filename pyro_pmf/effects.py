"""What a posterior says of each user, each item and each factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd
import torch
from scipy.stats import norm
from torch import Tensor

from pyro_pmf.bilinear import dot
from pyro_pmf.errors import PMFError
from pyro_pmf.gaussian import Value
from pyro_pmf.learned import Learned

_DEAD = 0.01  # as a share of the strongest factor's sd
_NOTHING = 1e-3  # an sd of U_i . V_j that changes no prediction


def effects(learned: Learned, of: Literal["user", "item"], interval: float = 0.9) -> pd.DataFrame:
    """Implement `Posterior.user_effects` and `Posterior.item_effects`."""
    if not 0 < interval < 1:
        raise PMFError(f"interval must lie between 0 and 1, not {interval!r}")
    tail, train = [(1 - interval) / 2, (1 + interval) / 2], learned.ratings
    if learned.num_draws is None:
        mean, var = _effect(learned.latents, of)
        sd = var.sqrt()
        lower, upper = (mean + q * sd for q in norm.ppf(tail))
    else:
        draws = torch.stack([_effect(draw, of)[0] for draw in learned.draws()])
        mean, sd = draws.mean(0), draws.std(0)
        lower, upper = draws.quantile(torch.tensor(tail, dtype=draws.dtype), 0)
    counts = train.user_counts if of == "user" else train.item_counts
    columns = {"mean": mean, "sd": sd, "lower": lower, "upper": upper, "n_ratings": counts}
    ids = train.users if of == "user" else train.items
    table = pd.DataFrame({name: x.numpy() for name, x in columns.items()})
    table.insert(0, of, ids)
    return table.sort_values("mean", ascending=False, ignore_index=True)


def _effect(latents: Mapping[str, Value], of: str) -> tuple[Tensor, Tensor]:
    """Mean and variance of c_j + mean_i(U_i) . V_j over items j, or of its mirror image.

    The mean over all users is taken as known: next to one item's factors it hardly varies.
    """
    bias, own, others = ("b", "U", "V") if of == "user" else ("c", "V", "U")
    parts = []
    if bias in latents:
        parts.append(_moments(latents[bias]))
    if own in latents:
        average = _moments(latents[others])[0].mean(0)
        mean, var = _moments(latents[own])
        parts.append((mean @ average, var @ average**2))
    if not parts:
        raise PMFError("The model has no biases and no factors: no sites 'b', 'c', 'U', 'V'.")
    means, variances = zip(*parts, strict=True)
    return torch.stack(means).sum(0), torch.stack(variances).sum(0)


def factor_norms(learned: Learned) -> pd.DataFrame:
    """Implement `Posterior.factor_norms`."""
    draws = [learned.latents] if learned.num_draws is None else list(learned.draws())
    if not {"U", "V"} <= draws[0].keys():
        raise PMFError("The model has no factors: no sites 'U' and 'V'.")
    strengths = [
        _strength(_moments(draw["U"])[0], _moments(draw["V"])[0], learned) for draw in draws
    ]
    variance, square_U, square_V = torch.stack(strengths).mean(0)
    sd = variance.sqrt()
    table = pd.DataFrame(
        {
            "sd": sd.numpy(),
            "share": (variance / variance.sum().clamp_min(torch.finfo(sd.dtype).tiny)).numpy(),
            "norm_U": square_U.sqrt().numpy(),
            "norm_V": square_V.sqrt().numpy(),
            "dead": (sd < max(_NOTHING, _DEAD * float(sd.max()))).numpy(),
        }
    )
    return table.rename_axis("factor").sort_values("sd", ascending=False, kind="stable")


def _strength(U: Tensor, V: Tensor, learned: Learned) -> Tensor:
    """Variance of U_ik V_jk over the training pairs, and mean squares; shape (3, n_factors)."""
    pattern = learned.ratings.pattern
    products = (dot(u[:, None], v[:, None], pattern) for u, v in zip(U.T, V.T, strict=True))
    variance = torch.stack([product.var(correction=0) for product in products])
    return torch.stack([variance, U.square().mean(0), V.square().mean(0)])


def _moments(value: Value) -> tuple[Tensor, Tensor]:
    if isinstance(value, Tensor):
        return value, torch.zeros_like(value)
    return value.mean, value.var
