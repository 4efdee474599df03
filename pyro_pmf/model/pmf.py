"""The generative model of a matrix of ratings.

    sigma, sigma_U, sigma_V, sigma_W, sigma_Z, sigma_b, sigma_c, sigma_s, sigma_t ~ HalfNormal
    mu    ~ Normal
    tau_k ~ HalfNormal, T = diag(tau)                                 scale of each factor
    b_i   ~ Normal(0, sigma_b^2)           c_j ~ Normal(0, sigma_c^2)
    mu_U  ~ Normal(0, sigma_U^2 T^2)       mu_V ~ Normal(0, sigma_V^2 I)
    U_i   ~ Normal(mu_U, sigma_U^2 T^2)                               independent users
    U_i   ~ Normal(mu_U + sum_j I_ij W_j / d(n_i), sigma_U^2 T^2)     hierarchical users
            W_j ~ Normal(0, sigma_W^2 T^2)
    V_j   ~ Normal(mu_V, sigma_V^2 I)                                 independent items
    V_j   ~ Normal(mu_V + sum_i I_ij Z_i / d(n_j), sigma_V^2 I)       hierarchical items
            Z_i ~ Normal(0, sigma_Z^2 I)
    score = mu + b_i + c_j + U_i . V_j
    s_i   ~ Normal(0, sigma_s^2)           t_j ~ Normal(0, sigma_t^2)
    sigma_ij = sigma exp(s_i + t_j)                                   noise of users and items
    R_ij  ~ Normal(sigmoid(score), sigma_ij^2 + rounding^2 / 12)      at the observed pairs

I_ij is 1 where user i rated item j, else 0; n_i and n_j count the ratings of user i and of item j.
The papers write hierarchical users as U_i = Y_i + sum_j ..., with Y_i ~ Normal(0, sigma_U^2 I).
The distribution is the same; here U_i and V_j are latents with every option. The papers of 2007
have mu_U = mu_V = 0, ``means=False``, and tau_k = 1, ``Priors(tau=Fixed(1.0))``. With a mean, a
user without ratings has the factors of a usual user. With a scale of its own, a factor that the
ratings do not need is switched off (automatic relevance determination), so that n_factors is an
upper bound.

Sources: Salakhutdinov & Mnih, Probabilistic Matrix Factorization, NIPS 2007, sections 2 (factors,
sigmoid) and 4 (hierarchical users, d(n) = n); the same, Bayesian Probabilistic Matrix
Factorization using Markov Chain Monte Carlo, ICML 2008, equations 5 to 8 (mu_U, mu_V); Koren,
Bell & Volinsky, Matrix factorization techniques for recommender systems, 2009 (biases); Koren,
Factorization meets the neighborhood, KDD 2008 (d(n) = sqrt(n)); Rendle, Zhang & Koren, On the
difficulty of evaluating baselines, 2019 (both sides); MacKay, Bayesian non-linear modelling for
the prediction competition, 1994 (tau).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.model.choice import choose, prior_of_mean
from pyro_pmf.model.likelihoods import Auto, Likelihood, LikelihoodField
from pyro_pmf.model.priors import Priors
from pyro_pmf.model.terms import (
    BEING_RATED,
    HAVING_RATED,
    ITEM_BIAS,
    ITEM_NOISE,
    USER_BIAS,
    USER_NOISE,
    Plate,
    Terms,
    TermSampler,
    item_factors,
    user_factors,
)
from pyro_pmf.moments.bilinear import cell_sum

Rows = Literal["independent", "hierarchical"]
Noise = Literal["shared", "user", "item", "user_and_item"]
Divisor = Literal["sqrt_count", "count"]


@dataclass(frozen=True)
class PMF:
    """Probabilistic matrix factorization, a Pyro model.

    Parameters
    ----------
    n_factors : int
        Length of U_i and V_j, an upper bound where tau is learnt. With 0 factors, the model has
        only biases.
    users, items : {"independent", "hierarchical"}
        Whether the prior mean of the factors has a sum over the items that the user rated, or
        over the users who rated the item. Hierarchical rows share strength through these sums;
        hierarchical users help users with few ratings.
    biases : bool or {"user", "item"}
        Terms b_i and c_j of the score: both, none, only b_i ("user") or only c_j ("item").
    divisor : {"sqrt_count", "count"}
        d(n) of the hierarchical sums: sqrt(n) (SVD++) or n (Salakhutdinov & Mnih).
    noise : {"shared", "user", "item", "user_and_item"}
        Terms of log sigma_ij = log sigma + s_i + t_j: neither s_i nor t_j ("shared"), only s_i
        ("user"), only t_j ("item"), or both.
    priors : Priors
        Priors of the scalar parameters.
    likelihood : Likelihood or "auto"
        Distribution of a rating given its score: `NormalSigmoid`, `NormalIdentity`,
        `OrderedLogit`, `BernoulliLogit`, `NegativeBinomialLog`, or a class of your own. With
        "auto", `fit` chooses by the ratings, see `choice.choose`.
    means : bool
        Whether the factors of users, and those of items, have a mean mu_U and mu_V that is
        learnt; otherwise it is 0.

    Raises
    ------
    PMFError
        If an option is not valid, or the model has neither factors nor biases.

    Examples
    --------
    >>> model = PMF(n_factors=2, users="hierarchical", noise="shared")
    >>> [term.site for term in model.terms]
    ['U', 'V', 'W', 'b', 'c']

    It is a Pyro model: run on pairs without values, it samples their ratings.

    >>> import torch
    >>> pairs = Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2]), n_users=2, n_items=3)
    >>> model(pairs).shape
    torch.Size([3])
    """

    n_factors: int = 16
    users: Rows = "independent"
    items: Rows = "independent"
    biases: bool | Literal["user", "item"] = True
    divisor: Divisor = "sqrt_count"
    noise: Noise = "user_and_item"
    priors: Priors = field(default_factory=Priors)
    likelihood: LikelihoodField = LikelihoodField()  # noqa: RUF009  # knows its default
    means: bool = True

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
            raise PMFError(
                'likelihood must be "auto" or a Likelihood such as NormalSigmoid(), not '
                f"{self.likelihood!r}"
            )
        if not isinstance(self.means, bool):
            raise PMFError(f"means must be True or False, not {self.means!r}")
        if not isinstance(self.biases, bool) and self.biases not in ("user", "item"):
            raise PMFError(f'biases must be True, False, "user" or "item", not {self.biases!r}')
        require_integer("n_factors", self.n_factors, least=0)
        if not self.n_factors and not self.biases:
            raise PMFError(
                "n_factors=0 and biases=False leave nothing to learn: give n_factors of at "
                "least 1, or biases=True"
            )

    def __call__(self, ratings: Pairs, history: Pairs | None = None) -> Tensor:
        """Run the generative model.

        Parameters
        ----------
        ratings : Pairs or Ratings
            The pairs whose ratings to generate; the ratings are observed if they have values.
        history : Pairs or Ratings, optional
            The pairs with I_ij = 1; ``ratings`` by default. Give the training ratings if
            ``ratings`` are others.

        Returns
        -------
        Tensor, shape (..., n_pairs)
            The site ``rating``, on the model scale.

        Raises
        ------
        PMFError
            If the matrices of ``history`` and ``ratings`` differ in shape.
        """
        seen = _pairs_seen(ratings, history)
        sample = TermSampler(self.terms, self.priors, self.n_factors, ratings)
        score, sigma, own = self.state(sample, seen)
        with pyro.plate("ratings", len(ratings), dim=-1):
            return pyro.sample("rating", self.likelihood(score, sigma, **own), obs=ratings.value)

    def state(self, sample: TermSampler, seen: Pairs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """State how scores and noise come about; a rating is then drawn from the likelihood.

        Parameters
        ----------
        sample : TermSampler
            Samples each site in Pyro, or gives the value that is known of it (`GivenSampler`).
        seen : Pairs
            The pairs with I_ij = 1.

        Returns
        -------
        score, sigma : Tensor, shape (..., n_pairs)
            Score and noise of each pair that ``sample`` scores.
        own : dict of str to Tensor
            The likelihood's own latents.
        """
        likelihood = self.likelihood
        sigma = sample.scalar("sigma") if likelihood.has_sigma else sample.zero + 1
        mu = sample.scalar("mu") if likelihood.has_mu else sample.zero
        own = sample.own(likelihood)

        sigma_b, sigma_c = sample.scale("b"), sample.scale("c")
        b = sample.rows("b", sigma_b)  # b_i ~ Normal(0, sigma_b^2)
        c = sample.rows("c", sigma_c)  # c_j ~ Normal(0, sigma_c^2)

        tau = sample.factor_scales()  # tau_k of each factor
        sigma_U, sigma_V = sample.scale("U"), sample.scale("V")
        W = sample.rows("W", sample.scale("W"), tau)  # W_j ~ Normal(0, sigma_W^2 T^2)
        Z = sample.rows("Z", sample.scale("Z"))  # Z_i ~ Normal(0, sigma_Z^2 I)
        mu_U = sample.mean("U", sigma_U, tau) if self.means else None  # Normal(0, sigma_U^2 T^2)
        mu_V = sample.mean("V", sigma_V) if self.means else None  # Normal(0, sigma_V^2 I)
        U = sample.rows("U", sigma_U, tau, means=(mu_U, self.sum_over_seen(W, seen, "users")))
        V = sample.rows("V", sigma_V, means=(mu_V, self.sum_over_seen(Z, seen, "items")))

        score = mu + sample.at_pairs(U, V, b, c)  # mu + b_i + c_j + U_i . V_j

        if self.noise != "shared":  # sigma_ij = sigma exp(s_i + t_j)
            s = sample.rows("s", sample.scale("s"))  # s_i ~ Normal(0, sigma_s^2)
            t = sample.rows("t", sample.scale("t"))  # t_j ~ Normal(0, sigma_t^2)
            sigma = sigma * torch.exp(sample.at_pairs(None, None, s, t))
        return score, sigma, own

    def for_ratings(self, ratings: Ratings) -> tuple[PMF, Ratings]:
        """Return the model and the ratings that `fit` uses.

        Parameters
        ----------
        ratings : Ratings
            The training ratings.

        Returns
        -------
        model : PMF
            The likelihood is chosen if it was "auto", and knows the spacing of the ratings.
        ratings : Ratings
            The same ratings, on the model scale of the likelihood.
        """
        likelihood, priors = self.likelihood, self.priors
        if isinstance(likelihood, Auto):
            likelihood, ratings = choose(ratings)
            priors = prior_of_mean(likelihood, ratings, priors)
        likelihood = likelihood.for_ratings(ratings)
        return replace(self, likelihood=likelihood, priors=priors), ratings

    @property
    def terms(self) -> Terms:
        """The terms of this model."""
        users, items = self.users == "hierarchical", self.items == "hierarchical"
        has = {
            user_factors(users, self.means): self.n_factors,
            item_factors(items, self.means): self.n_factors,
            HAVING_RATED: self.n_factors and users,
            BEING_RATED: self.n_factors and items,
            USER_BIAS: self.biases in (True, "user"),
            ITEM_BIAS: self.biases in (True, "item"),
            USER_NOISE: "user" in self.noise,
            ITEM_NOISE: "item" in self.noise,
        }
        return Terms(term for term, is_there in has.items() if is_there)

    @property
    def mean_sites(self) -> list[str]:
        """Sites of the means of factors that this model has, of users and of items."""
        factors = self.terms.factors
        return [factor.mean for factor in factors or () if self.means]

    def divide_by(self, n: Tensor) -> Tensor:
        """Return d(n), the divisor of a sum over n pairs.

        Parameters
        ----------
        n : Tensor, float, any shape
            Numbers of pairs.

        Returns
        -------
        Tensor, of the shape of ``n``
        """
        return n.sqrt() if self.divisor == "sqrt_count" else n

    def sum_over_seen(self, W: Tensor | None, seen: Pairs, plate: Plate) -> Tensor | None:
        """Return sum_j I_ij W_j / d(n_i), the prior mean of the factors of each row i.

        Parameters
        ----------
        W : Tensor, shape (n_columns, n_factors), or None
            Effects of the other side.
        seen : Pairs
            The pairs with I_ij = 1.
        plate : {"users", "items"}
            What the rows are; W has one row for each of the others.

        Returns
        -------
        Tensor, shape (n_rows, n_factors), or None
            0 in an empty row; None without ``W``.
        """
        if W is None:
            return None
        is_users = plate == "users"
        n = seen.user_counts if is_users else seen.item_counts
        d = self.divide_by(n.clamp(min=1).to(W.dtype))
        return cell_sum(W, seen.cells if is_users else seen.cells.T) / d[:, None]


def for_point_estimate(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model that MAP fits: a `PMF` with shared noise, any other model unchanged.

    With separate noise for each user, the joint density has no maximum: it grows without bound as
    the noise of one user goes to zero.

    Parameters
    ----------
    model : callable
        A `PMF` or another Pyro model.
    """
    return replace(model, noise="shared") if isinstance(model, PMF) else model


def _pairs_seen(ratings: Pairs, history: Pairs | None) -> Pairs:
    """Return the pairs with I_ij = 1."""
    if history is None:
        return ratings
    if (history.n_users, history.n_items) != (ratings.n_users, ratings.n_items):
        raise PMFError(
            f"history has a {history.n_users} x {history.n_items} matrix, the ratings have a "
            f"{ratings.n_users} x {ratings.n_items} one: use ratings.aligned_to(history)"
        )
    return history
