"""Figures of a fit: the numbers that they show, and whether their texts fit in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from figures import draw, inside_the_figure, texts

from pyro_pmf import PMF, VI, Fixed, NormalIdentity, PMFError, Priors, fit
from pyro_pmf.criticism.plots import plot_elbo, plot_factor_norms, plot_scales
from pyro_pmf.moments.gaussian import Gaussian


class TestELBO:
    @pytest.mark.slow
    def test_draws_the_steps(self, posterior):
        ax = plot_elbo(posterior)
        step, elbo = ax.lines[0].get_data()
        np.testing.assert_array_equal(step, posterior.steps["step"])
        np.testing.assert_array_equal(elbo, posterior.steps["elbo"])
        assert ax.get_ylabel() == "ELBO (nats)"
        assert ax.get_title("left") == "Not converged after 60 steps"
        converged = plot_elbo(replace(posterior, converged=True))
        assert converged.get_title("left") == "Converged after 60 steps"
        assert inside_the_figure(ax)

    def test_shows_the_end_and_not_the_first_climb(self, posterior):
        elbo = posterior.steps["elbo"]
        bottom, top = plot_elbo(posterior).get_ylim()
        assert elbo.iloc[0] < bottom < elbo.iloc[-1] <= elbo.max() < top

    @pytest.mark.parametrize("max_steps", [1, 2, 5])
    def test_of_a_few_steps(self, split, max_steps):
        short = fit(PMF(n_factors=0), split[0], VI(max_steps=max_steps), progress=False)
        ax = draw(plot_elbo(short))
        assert ax.get_title("left").startswith(f"Not converged after {max_steps} step")


class TestTraces:
    @pytest.fixture
    def chains(self, posterior):
        generator = np.random.default_rng(0)
        steps = pd.DataFrame(
            {
                "step": range(1, 41),
                "chain": np.repeat([0, 1], 20),
                "log_likelihood": generator.normal(-300, 5, 40),
                "divergent": np.arange(40) == 33,
            }
        )
        return replace(posterior, n_chains=2, steps=steps, converged=False)

    def test_draw_the_log_likelihood_of_each_chain(self, chains):
        ax = plot_elbo(chains)
        first, second, divergent = ax.lines
        for line, draws in ((first, slice(0, 20)), (second, slice(20, 40))):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
            shown = chains.steps["log_likelihood"][draws]
            np.testing.assert_array_equal(line.get_ydata(), shown)
        np.testing.assert_array_equal(divergent.get_xdata(), [14])
        assert texts(ax) == ["chain 1", "chain 2", "divergent"]
        assert ax.get_ylabel() == "Log likelihood (nats)"
        assert ax.get_title("left") == "Not mixed after 2 chains of 20 draws"
        assert inside_the_figure(ax)

    def test_of_one_chain_that_has_mixed(self, chains):
        one = replace(chains, steps=chains.steps[:20], n_chains=1, converged=True)
        assert plot_elbo(one).get_title("left") == "Mixed after 1 chain of 20 draws"


class TestScales:
    def test_draws_median_and_interval_of_each(self, posterior):
        ax = plot_scales(posterior)
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert [label.split("$")[1] for label in labels] == [
            *(r"\sigma_c", r"\sigma_b", r"\sigma_V", r"\sigma_U", r"\sigma")
        ]
        sigma = posterior.latents["sigma"]
        assert ax.lines[-1].get_xdata()[0] == pytest.approx(float(sigma.log_mean.exp()), rel=0.02)
        (segment,) = ax.collections[-1].get_segments()
        spread = 1.645 * sigma.log_var.sqrt()
        expected = [float((sigma.log_mean + sign * spread).exp()) for sign in (-1, 1)]
        assert segment[:, 0] == pytest.approx(expected, rel=0.05)
        assert inside_the_figure(ax)

    def test_names_both_scales(self, posterior):
        assert sorted(texts(plot_scales(posterior))) == [
            "on the logit scale",
            "on the unit scale of the ratings",
        ]

    def test_of_a_point_estimate(self, point):
        numbers = [text.get_text() for text in plot_scales(point).texts]
        assert f"{float(point.latents['sigma']):.3f}" in numbers

    def test_of_draws(self, drawn):
        ax = plot_scales(drawn)
        assert len(ax.get_yticks()) == 5
        assert ax.lines[-1].get_xdata()[0] == pytest.approx(np.median(drawn.latents["sigma"]))

    def test_of_the_identity(self, split):
        model = PMF(n_factors=1, noise="shared", likelihood=NormalIdentity())
        fitted = fit(model, split[0], VI(max_steps=5, learn_scales=None), progress=False)
        assert texts(plot_scales(fitted)) == ["on the unit scale of the ratings"]

    def test_of_levels(self, discrete):
        assert texts(plot_scales(discrete[0])) == ["on the logit scale"]

    def test_without_any(self, split):
        names = ("sigma", "sigma_b", "sigma_c")
        priors = Priors(**{name: Fixed(0.2) for name in names})
        held = PMF(n_factors=0, noise="shared", priors=priors)
        fitted = fit(held, split[0], VI(max_steps=2, learn_scales=None), progress=False)
        with pytest.raises(PMFError, match="nothing to plot"):
            plot_scales(fitted)

    def test_leaves_the_random_state_alone(self, posterior):
        state = torch.get_rng_state()
        plot_scales(posterior)
        assert torch.equal(torch.get_rng_state(), state)


def with_random_rows(posterior, strengths=(1.0, 1.0)):
    generator = torch.Generator().manual_seed(0)
    rows = {
        name: replace(x, mean=torch.randn(x.mean.shape, generator=generator))
        for name, x in posterior.latents.items()
        if name in ("U", "V")
    }
    rows["U"] = replace(rows["U"], mean=rows["U"].mean * torch.tensor(strengths))
    return replace(posterior, latents={**posterior.latents, **rows})


class TestFactorNorms:
    def test_draws_each_from_the_strongest(self, posterior):
        alive = with_random_rows(posterior)
        ax, table = plot_factor_norms(alive), alive.factor_norms()
        np.testing.assert_allclose(
            [bar.get_height() for bar in ax.patches], table["rms"], rtol=1e-6
        )
        assert [label.get_text() for label in ax.get_xticklabels()] == [*map(str, table.index)]
        assert [text.get_text() for text in ax.texts] == [
            f"{share:.0%}" for share in table["share"]
        ]
        assert ax.get_title("left").endswith("no factor is dead")
        assert inside_the_figure(ax)

    def test_a_weak_factor_is_not_called_nothing(self, posterior):
        weak = with_random_rows(posterior, (1.0, 0.05))
        assert 0 < weak.factor_norms()["share"].iloc[-1] < 0.005
        assert [text.get_text() for text in plot_factor_norms(weak).texts] == ["100%", "<1%"]

    def test_marks_dead_ones(self, posterior):
        V = posterior.latents["V"]
        alive = torch.tensor([0.0, 1.0])
        dead = replace(
            posterior,
            latents={**posterior.latents, "V": Gaussian(V.mean * alive, V.var, V.sites)},
        )
        ax = plot_factor_norms(dead)
        assert [text.get_text() for text in ax.texts] == ["100%", "dead"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]
        assert ax.patches[-1].get_hatch()
        assert ax.get_title("left").endswith("1 of 2 factors dead")
        assert inside_the_figure(ax)

    def test_all_dead(self, posterior):
        V = posterior.latents["V"]
        nothing = Gaussian(V.mean * 0.0, V.var, V.sites)
        ax = plot_factor_norms(replace(posterior, latents={**posterior.latents, "V": nothing}))
        assert [text.get_text() for text in ax.texts] == ["dead", "dead"]
        assert ax.get_ylim()[1] > 1
        assert inside_the_figure(ax)

    @pytest.mark.slow
    def test_of_many(self, split):
        many = fit(PMF(n_factors=40), split[0], VI(max_steps=5, learn_scales=None), progress=False)
        ax = plot_factor_norms(many)
        assert len(ax.patches) == 40
        assert not ax.texts
        assert inside_the_figure(ax)

    def test_without_any(self, split):
        none = fit(PMF(n_factors=0), split[0], VI(max_steps=2, learn_scales=None), progress=False)
        with pytest.raises(PMFError, match="no factors"):
            plot_factor_norms(none)
