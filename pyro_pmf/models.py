"""The generative statement: how a matrix of ratings comes about.

    sigma, sigma_U, sigma_V, sigma_W, sigma_Z, sigma_b, sigma_c, sigma_s, sigma_t ~ HalfNormal
    mu    ~ Normal
    b_i   ~ Normal(0, sigma_b^2)           c_j ~ Normal(0, sigma_c^2)
    U_i   ~ Normal(0, sigma_U^2 I)                                    independent users
    U_i   ~ Normal(sum_j I_ij W_j / d(n_i), sigma_U^2 I)              hierarchical users
            W_j ~ Normal(0, sigma_W^2 I)
    V_j   ~ Normal(0, sigma_V^2 I)                                    independent items
    V_j   ~ Normal(sum_i I_ij Z_i / d(n_j), sigma_V^2 I)              hierarchical items
            Z_i ~ Normal(0, sigma_Z^2 I)
    score = mu + b_i + c_j + U_i . V_j
    s_i   ~ Normal(0, sigma_s^2)           t_j ~ Normal(0, sigma_t^2)
    sigma_ij = sigma exp(s_i + t_j)                                   noise of users and items
    R_ij  ~ Normal(sigmoid(score), sigma_ij^2)                        at the observed pairs

I_ij is 1 where user i rated item j; n_i and n_j count the ratings of a user and of an item. The
papers write hierarchical users as U_i = Y_i + sum_j ..., with Y_i ~ Normal(0, sigma_U^2 I): that
is the same, and here U_i and V_j are latents whatever the options.

Sources: Salakhutdinov & Mnih, Probabilistic Matrix Factorization, NIPS 2007, sections 2 (factors,
sigmoid) and 4 (hierarchical users, d(n) = n); Koren, Bell & Volinsky, Matrix factorization
techniques for recommender systems, 2009 (biases); Koren, Factorization meets the neighborhood,
KDD 2008 (d(n) = sqrt(n)); Rendle, Zhang & Koren, On the difficulty of evaluating baselines, 2019
(both sides).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.bilinear import dot, weighted_sum
from pyro_pmf.errors import PMFError
from pyro_pmf.likelihoods import Likelihood, NormalSigmoid
from pyro_pmf.pairs import Pairs, Pattern
from pyro_pmf.priors import Priors

Rows = Literal["independent", "hierarchical"]
Noise = Literal["shared", "user", "item", "user_and_item"]
Divisor = Literal["sqrt_count", "count"]


@dataclass(frozen=True)
class PMF:
    """Probabilistic matrix factorization, a Pyro model.

    Parameters
    ----------
    n_factors : int
        Length of U_i and V_j. With 0 only the biases are left.
    users, items : {"independent", "hierarchical"}
        Whether a user's factors share strength through the items that the user rated, and an
        item's through the users who rated it. Hierarchical users help those with few ratings.
    biases : bool or {"user", "item"}
        Whether the score has the terms b_i and c_j; "user" keeps b_i alone, "item" c_j.
    divisor : {"sqrt_count", "count"}
        d(n) of the hierarchical sums: sqrt(n) (SVD++) or n (the paper's).
    noise : {"shared", "user", "item", "user_and_item"}
        Whose ratings have a noise of their own: log sigma_ij = log sigma + s_i + t_j, with the
        terms that are asked for.
    priors : Priors
    likelihood : Likelihood
        How a score becomes a rating: `NormalSigmoid`, `NormalIdentity`, `OrderedLogit`,
        `BernoulliLogit`, `NegativeBinomialLog`, or one of yours.

    Raises
    ------
    PMFError
        If an option is none of those above.
    """

    n_factors: int = 16
    users: Rows = "independent"
    items: Rows = "independent"
    biases: bool | Literal["user", "item"] = True
    divisor: Divisor = "sqrt_count"
    noise: Noise = "user_and_item"
    priors: Priors = field(default_factory=Priors)
    likelihood: Likelihood = field(default_factory=NormalSigmoid)

    def __post_init__(self) -> None:
        for name, options in (
            ("users", Rows),
            ("items", Rows),
            ("noise", Noise),
            ("divisor", Divisor),
        ):
            if getattr(self, name) not in get_args(options):
                raise PMFError(
                    f"{name} must be one of {get_args(options)}, not {getattr(self, name)!r}"
                )
        if not isinstance(self.priors, Priors):
            raise PMFError(f"priors must be Priors(...), not {self.priors!r}")
        if not isinstance(self.likelihood, Likelihood):
            raise PMFError(f"likelihood must be such as NormalSigmoid(), not {self.likelihood!r}")
        if not isinstance(self.biases, bool) and self.biases not in ("user", "item"):
            raise PMFError(f'biases must be True, False, "user" or "item", not {self.biases!r}')
        require_integer("n_factors", self.n_factors, least=0)
        if not self.n_factors and not self.biases:
            raise PMFError("a model without factors and without biases has nothing to learn")

    def __call__(self, ratings: Pairs, history: Pairs | None = None) -> Tensor:
        """Run the generative model.

        Parameters
        ----------
        ratings : Pairs or Ratings
            The pairs whose ratings are generated, and observed where they have values.
        history : Pairs or Ratings, optional
            The pairs that I_ij stands for; ``ratings`` itself if left out. Give the training
            ratings when ``ratings`` are others.

        Returns
        -------
        Tensor, shape (..., n_pairs)
            The site ``rating``, on the unit scale.

        Raises
        ------
        PMFError
            If ``history`` is of a matrix of another shape.
        """
        seen = ratings if history is None else history
        if (seen.n_users, seen.n_items) != (ratings.n_users, ratings.n_items):
            raise PMFError(
                f"history is of a {seen.n_users} x {seen.n_items} matrix, the ratings of a "
                f"{ratings.n_users} x {ratings.n_items} one: align them to the same ids"
            )
        zero = torch.zeros((), dtype=ratings.dtype, device=ratings.device)

        def scalar(name: str) -> Tensor:
            return getattr(self.priors, name).draw(name, zero)

        def row(mean: Tensor, sd: Tensor) -> dist.Distribution:  # Normal(mean, sd^2 I)
            return dist.Normal(mean, sd[..., None]).to_event(1)

        users = pyro.plate("users", ratings.n_users, dim=-1)
        items = pyro.plate("items", ratings.n_items, dim=-1)
        likelihood = self.likelihood
        sigma = scalar("sigma") if likelihood.has_sigma else zero + 1
        mu = scalar("mu") if likelihood.has_mu else zero
        own = likelihood.latents(zero)
        b = c = None
        U, V = no_factors = zero.expand(ratings.n_users, 0), zero.expand(ratings.n_items, 0)

        sigma_b = scalar("sigma_b") if self.biases in (True, "user") else None
        sigma_c = scalar("sigma_c") if self.biases in (True, "item") else None
        if sigma_b is not None:
            with users:
                b = pyro.sample("b", dist.Normal(zero, sigma_b))
        if sigma_c is not None:
            with items:
                c = pyro.sample("c", dist.Normal(zero, sigma_c))

        if self.n_factors:
            sigma_U, sigma_V = scalar("sigma_U"), scalar("sigma_V")
            at_zero = zero.expand(self.n_factors)
            mean_U = mean_V = at_zero
            if self.users == "hierarchical":
                sigma_W = scalar("sigma_W")
                with items:
                    W = pyro.sample("W", row(at_zero, sigma_W))
                mean_U = self._sum_of_seen(W, seen.pattern)
            if self.items == "hierarchical":
                sigma_Z = scalar("sigma_Z")
                with users:
                    Z = pyro.sample("Z", row(at_zero, sigma_Z))
                mean_V = self._sum_of_seen(Z, seen.pattern.T)
            with users:
                U = pyro.sample("U", row(mean_U, sigma_U))
            with items:
                V = pyro.sample("V", row(mean_V, sigma_V))

        score = mu + dot(U, V, ratings.pattern, b, c)  # U_i . V_j + b_i + c_j

        if self.noise != "shared":
            s = t = None
            if "user" in self.noise:
                sigma_s = scalar("sigma_s")
                with users:
                    s = pyro.sample("s", dist.Normal(zero, sigma_s))
            if "item" in self.noise:
                sigma_t = scalar("sigma_t")
                with items:
                    t = pyro.sample("t", dist.Normal(zero, sigma_t))
            sigma = sigma * torch.exp(dot(*no_factors, ratings.pattern, s, t))  # s_i + t_j

        with pyro.plate("ratings", len(ratings), dim=-1):
            return pyro.sample("rating", likelihood(score, sigma, **own), obs=ratings.value)

    def _sum_of_seen(self, W: Tensor, seen: Pattern) -> Tensor:
        """sum_j I_ij W_j / d(n_i) for each row i; zero for a row that saw nothing."""
        n = seen.row_pointers.diff()
        d = n.to(W.dtype)
        if self.divisor == "sqrt_count":
            d = d.sqrt()
        return weighted_sum(d.reciprocal().repeat_interleave(n), W, seen)
