"""Mistakes put into the sampler's code, which its tests must find."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import FunctionType, ModuleType

import pytest

from pyro_pmf.inference.mcmc.gibbs import (
    invariances,
    level,
    means,
    noise,
    rows,
    scales,
    slices,
    sums,
    working,
)


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes
    ----------
    model : str
        Name of the model that is tested, see `configurations`.
    block : str
        Name of the block of a sweep that goes wrong.
    module : module
        Where the mistake is made.
    right, wrong : str
        The text of the source, which occurs once, and the text in its place.
    """

    model: str
    block: str
    module: ModuleType
    right: str
    wrong: str

    def make(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the mistake, in all functions of the module at their places."""
        source = inspect.getsource(self.module)
        assert source.count(self.right) == 1, f"{self.right!r} is not in the source once"
        made: dict[str, object] = dict(vars(self.module))
        code = compile(source.replace(self.right, self.wrong), str(self.module.__file__), "exec")
        exec(code, made)
        for name, old in list(vars(self.module).items()):
            if getattr(old, "__module__", None) == self.module.__name__:
                _take_code(monkeypatch, old, made[name])


def _take_code(monkeypatch: pytest.MonkeyPatch, old: object, new: object) -> None:
    if isinstance(old, FunctionType):
        assert isinstance(new, FunctionType)
        monkeypatch.setattr(old, "__code__", new.__code__)
    elif isinstance(old, type):
        for name, method in list(vars(old).items()):
            if isinstance(method, FunctionType) and name in vars(new):
                _take_code(monkeypatch, method, vars(new)[name])


_WITHOUT_ITS_JACOBIAN = {
    "columns": Mutation(
        "sigmoid, no biases", "columns", invariances, "return rows * y - 0.5", "return -0.5"
    ),
    "factor scales": Mutation(
        "ordered", "factor scales", invariances, "- rows * y - 0.5", "- 0.5"
    ),
    "all scales": Mutation(
        "Bernoulli", "all scales", invariances, "total += sign * y + state", "total += state"
    ),
    "tau and scales": Mutation(
        "ordered", "tau and scales", invariances, "sum(y + prior(tau", "sum(prior(tau"
    ),
    "stretch": Mutation("ordered", "stretch", level, "(gain) + len(old) * y", "(gain)"),
    "stretched scales": Mutation(
        "ordered", "stretch", invariances, "power * y + state.densities", "state.densities"
    ),
    "stretched noise": Mutation(
        "ordered", "noise and users", invariances, "density += len(cuts) * y +", "density +="
    ),
    "stretched mu": Mutation(
        "Bernoulli", "noise and users", invariances, "density += y + state", "density += state"
    ),
    "a scale": Mutation("ordered", "scales of users", slices, "return y - count", "return -count"),
    "tau": Mutation("ordered", "tau", slices, "return y - count", "return -count"),
    "sigma": Mutation("counts", "noise", noise, "(gain) + y + prior", "(gain) + prior"),
    "sigma and s": Mutation(
        "sigmoid", "noise", noise, "return rest + y + prior", "return rest + prior"
    ),
}
_ACCEPTANCE = {
    "rows inverted": Mutation(
        "sigmoid",
        "rows of users",
        rows,
        "ratio = self._sum(gains) - (after - before) / 2",
        "ratio = (after - before) / 2 - self._sum(gains)",
    ),
    "rows without their energy": Mutation(
        "sigmoid",
        "rows of users",
        rows,
        "self._sum(gains) - (after - before) / 2",
        "self._sum(gains)",
    ),
    "rows always": Mutation(
        "sigmoid",
        "rows of users",
        rows,
        "chance.uniform[self._range].log() < ratio",
        "ratio == ratio",
    ),
    "noise inverted": Mutation(
        "sigmoid", "noise", noise, "side.rows.uniform_like(ratio).log() < ratio", "ratio < 0"
    ),
    "noise without its prior": Mutation(
        "sigmoid",
        "noise",
        noise,
        "side.sum(gains()) - (new.double().square() - side.s.double().square()) / (2 * sd * sd)",
        "side.sum(gains())",
    ),
    "cut points inverted": Mutation(
        "ordered",
        "cut points",
        level,
        "by_level[index + 1] + prior",
        "by_level[index + 1] - prior",
    ),
    "cut points of one level": Mutation(
        "ordered", "cut points", level, "by_level[index] + by_level[index + 1]", "by_level[index]"
    ),
    "cut points that pass each other": Mutation(
        "ordered", "cut points", level, "accepted = between & (", "accepted = ("
    ),
    "stretch inverted": Mutation(
        "ordered", "stretch", level, "random()) < ratio", "random()) < -ratio"
    ),
}
_POTENTIAL = {  # the log likelihood, times 0.8
    "rows": Mutation(
        "sigmoid",
        "rows of users",
        rows,
        "gain = log_prob - self.group.ordered(self._block.log_prob)",
        "gain = 0.8 * (log_prob - self.group.ordered(self._block.log_prob))",
    ),
    "exact rows": Mutation(
        "identity",
        "rows of users",
        rows,
        "weight = self.likelihood.weight(at, self.noise, safe)",
        "weight = 0.8 * self.likelihood.weight(at, self.noise, safe)",
    ),
    "noise": Mutation(
        "sigmoid",
        "noise",
        noise,
        "yield group.ordered(log_prob - block.log_prob)",
        "yield group.ordered(0.8 * (log_prob - block.log_prob))",
    ),
    "sigma": Mutation(
        "sigmoid, no biases",
        "noise",
        noise,
        "return state.total(gain) + y",
        "return 0.8 * state.total(gain) + y",
    ),
    "mu": Mutation(
        "sigmoid, no biases",
        "level",
        level,
        "return state.total(gain) + prior",
        "return 0.8 * state.total(gain) + prior",
    ),
    "cut points": Mutation(
        "ordered",
        "level",
        level,
        "by_level.index_add_(0, _level_of(block), (",
        "by_level.index_add_(0, _level_of(block), 0.8 * (",
    ),
    "stretch": Mutation(
        "ordered",
        "stretch",
        level,
        "ratio = state.total(gain)",
        "ratio = 0.8 * state.total(gain)",
    ),
}
_PRIOR = {  # without a prior term
    "cut points": Mutation(
        "ordered",
        "cut points",
        level,
        "return torch.nn.functional.logsigmoid(cuts) + torch.nn.functional.logsigmoid(-cuts)",
        "return 0 * cuts",
    ),
    "cut points and biases": Mutation(
        "ordered",
        "level and users",
        invariances,
        "return of_biases(d) + log_prior_of_cutpoints(cuts + d)",
        "return of_biases(d)",
    ),
    "stretched cut points": Mutation(
        "ordered",
        "stretch",
        level,
        "ratio += log_prior_of_cutpoints(likelihood.cutpoints) - log_prior_of_cutpoints(old)",
        "pass",
    ),
    "stretched scales": Mutation(
        "ordered",
        "stretch",
        invariances,
        "power * y + state.densities[name](state.scales[name] * math.exp(power * y))",
        "power * y",
    ),
    "s of a stretch": Mutation(
        "ordered", "noise and users", invariances, "-(total * y + n * y * y / 2) / variance +", ""
    ),
    "mu of a stretch": Mutation(
        "Bernoulli",
        "noise and users",
        invariances,
        'density += y + state.densities["mu"](mu * math.exp(y))',
        "density += y",
    ),
    "mu and biases": Mutation(
        "sigmoid", "level and users", invariances, "of_biases(-d) + prior(mu + d)", "of_biases(-d)"
    ),
    "mu": Mutation(  # not all of it, since the posterior is improper without
        "sigmoid, no biases", "level", level, "+ prior(mu + d)", "+ prior(mu + d) / 10"
    ),
    "sigma": Mutation(
        "counts", "noise", noise, "(gain) + y + prior(math.exp(at + y))", "(gain) + y"
    ),
    "sigma and s": Mutation(
        "sigmoid", "noise", noise, "rest + y + prior(math.exp(at + y))", "rest + y"
    ),
    "each scale": Mutation(
        "ordered",
        "scales of users",
        slices,
        "* math.exp(-2 * y) + prior(math.exp(y))",
        "* math.exp(-2 * y)",
    ),
    "tau": Mutation(
        "ordered", "tau", slices, "* math.exp(-2 * y) + prior(math.exp(y))", "* math.exp(-2 * y)"
    ),
    "factor scales": Mutation(
        "ordered", "factor scales", invariances, "return y + prior(tau * math.exp(y))", "return y"
    ),
    "all scales": Mutation(
        "ordered", "all scales", invariances, "+ state.densities[name](scale)", ""
    ),
    "tau and scales": Mutation(
        "ordered", "tau and scales", invariances, "sum(y + prior(tau * math.exp(y))", "sum(y"
    ),
}
_FORGOTTEN = {
    "prior mean of rows": Mutation(
        "identity", "rows of users", rows, "torch.cat(parts) * about", "0 * about"
    ),
    "tau in rows": Mutation(
        "identity",
        "rows of users",
        rows,
        "scale] * side.tau.double()",
        "scale] * side.F.new_ones(side.F.shape[1])",
    ),
    "noise of Matheron's rule": Mutation(
        "ordered", "effects of users", sums, "self.forward(W) - noise", "self.forward(W)"
    ),
    "tau in effects": Mutation(
        "ordered", "effects of users", sums, "sums.draw(about / side.tau", "sums.draw(about"
    ),
    "effects in scales": Mutation(
        "ordered", "scales of users", scales, "(side.F - side.M) / side.tau", "side.F / side.tau"
    ),
    "tau in scales": Mutation(
        "ordered", "scales of users", scales, "effects = (side.W / side.tau)", "effects = side.W"
    ),
    "mean in effects": Mutation(
        "ordered", "effects of users", sums, "side.F - side.mean", "side.F"
    ),
    "mean in scales": Mutation(
        "ordered", "scales of users", scales, "+= (side.mean / side.tau)", "+= 0 * (side.mean)"
    ),
    "mean among the rows": Mutation(
        "ordered", "scales of users", scales, "side.n_factor_rows", "side.rows.n"
    ),
    "prior of a mean": Mutation(
        "ordered", "mean of users", means, "[0] - side.mean.double())", "[0])"
    ),
    "effects with a mean": Mutation(
        "ordered", "mean of users", means, "side.W = (side.W - effects * h)", "side.W = side.W"
    ),
    "mean in a shift": Mutation(
        "ordered",
        "shift of users",
        invariances,
        "linear - side.mean.double() / variance",
        "linear",
    ),
    "effects in a shift": Mutation(
        "sigmoid, rounded",
        "shift of users",
        invariances,
        "side.W = (side.W + delta * h)",
        "side.W = side.W",
    ),
    "biases in a shift": Mutation(
        "ordered",
        "shift of users",
        invariances,
        "other.rows.sum(columns.T @ other.b.double())",
        "0 * columns[0]",
    ),
    "tau in a shift": Mutation(
        "ordered", "shift of users", invariances, "side.tau.double() ** -2", "side.tau * 0 + 1"
    ),
    "biases with mu": Mutation(
        "sigmoid",
        "level and users",
        invariances,
        "-(total * d + n * d * d / 2)",
        "-(total * d + n * d * d)",
    ),
    "s with sigma": Mutation("sigmoid", "noise", noise, "(total * y - n", "(0 * y - n"),
    "size of counts": Mutation(
        "counts",
        "noise",
        working,
        "log_prob = choices.sub_(total.mul_",
        "log_prob = choices.sub_(size.mul",
    ),
}
MUTATIONS = {
    **{f"without the Jacobian: {name}": x for name, x in _WITHOUT_ITS_JACOBIAN.items()},
    **{f"acceptance: {name}": x for name, x in _ACCEPTANCE.items()},
    **{f"potential: {name}": x for name, x in _POTENTIAL.items()},
    **{f"without the prior: {name}": x for name, x in _PRIOR.items()},
    **{f"forgotten: {name}": x for name, x in _FORGOTTEN.items()},
}
