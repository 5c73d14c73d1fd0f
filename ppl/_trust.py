"""Tools to trust a gradient by: which estimator is where, whether the mean is right, what the variance costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._addresses import Path, show
from ._errors import AddressError
from ._rules import Overrides
from .transforms import (
    Description,
    Estimator,
    EstimatorError,
    check_key,
    choose_estimators,
    describe_sites,
    enum,
    is_inexact,
    reinforce,
    table,
)


def _path(label: Any) -> Path:
    return label if isinstance(label, tuple) and label else (str(label),)


def with_estimators(objective: Callable, estimators: Mapping) -> Callable:
    """The same objective with other gradient estimators, chosen by address.

    Args:
        objective: `objective(key, *args)`: an `expectation`, or any function that calls one.
        estimators: from address patterns ('z', 'steps/z', ('steps', 'z'), '*', '**/z') to estimators; the most
            specific pattern wins. Here a choice wins over those at the sites and in the generative functions.

    Returns:
        An objective of the same arguments.

    Raises:
        AddressError: a pattern that matches no sample of the objective.
        EstimatorError: an estimator that does not fit its site.

    Example:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> float(jax.grad(tg.with_estimators(f, {"b": tg.mvd()}), argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    overrides = Overrides(estimators)

    def chosen(*args, **kwargs):
        seen: set[Path] = set()
        used: set[int] = set()

        def choose(label, present):
            seen.add(_path(label))
            i = overrides.find(_path(label))
            if i is None:
                return None
            used.add(i)
            return overrides.estimators[i]

        out = choose_estimators(objective, choose)(*args, **kwargs)
        for i, pattern in enumerate(overrides.patterns):
            if i not in used and not any(overrides.matches(i, path) for path in seen):
                have = ", ".join(map(show, sorted(seen))) or "none"
                raise AddressError(f"with_estimators: {show(pattern)} matches no sample. The objective has: {have}.")
        return out

    return chosen


def describe_estimators(objective: Callable, key: jax.Array, *args, **kwargs) -> Description:
    """What each sample site of an objective uses, why, and what its gradient costs in further runs.

    Args:
        objective: `objective(key, *args)`.
        key: one typed key; nothing is drawn.
        *args: arguments, for their shapes.
        **kwargs: keyword arguments.

    Returns:
        A tuple of `SiteReport`s (label, distribution, estimator, reason, where, draws, runs, jumps); printed, it is a
        table, with a line below for each discontinuity that a path derivative misses.

    Example:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p), estimator=tg.mvd()))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> print(tg.describe_estimators(f, jax.random.key(0), 0.25))
        address  distribution    estimator  why     where  draws  runs
        -------  --------------  ---------  ------  -----  -----  ----
        b        BernoulliProbs  mvd()      chosen  -      1      1
    """
    check_key(key, "describe_estimators")
    return describe_sites(objective, key, *args, **kwargs)


# ---- the derivative of an objective in its arguments ----------------------------------------------------------------


def _gradient(objective: Callable, args: tuple):
    """A function of a key to the flat list [value, gradients ...], and the names of its entries."""
    leaves, tree = jax.tree.flatten_with_path(args)
    leaves = [(path, jnp.asarray(x) if isinstance(x, float) else x) for path, x in leaves]
    trained = [i for i, (_, x) in enumerate(leaves) if is_inexact(x)]
    values = [x for _, x in leaves]

    def at(arrays):
        filled = list(values)
        for i, x in zip(trained, arrays, strict=True):
            filled[i] = x
        return jax.tree.unflatten(tree, filled)

    def run(key, objective=objective):
        value, grads = jax.value_and_grad(lambda xs: objective(key, *at(xs)))([values[i] for i in trained])
        return [value, *grads]

    names = ["value", *(f"args{jax.tree_util.keystr(leaves[i][0])}" for i in trained)]
    return run, names, at, [values[i] for i in trained]


def _moments(run: Callable, key: jax.Array, draws: int, chunk: int = 1000):
    """Mean and standard error of each entry of `run(key)` over draws."""
    chunks = max(1, draws // chunk)
    each = min(draws, chunk)

    @jax.jit
    def sums(key):
        def one(key):
            ys = jax.vmap(run)(jax.random.split(key, each))
            return [y.mean(0) for y in ys], [((y - y.mean(0, keepdims=True)) ** 2).sum(0) for y in ys]

        means, squares = lax.map(one, jax.random.split(key, chunks))
        return means, squares

    means, squares = jax.tree.map(lambda x: np.asarray(x, np.float64), sums(key))
    n = chunks * each
    out = []
    for m, s in zip(means, squares, strict=True):
        mean = m.mean(0)
        variance = (s.sum(0) + each * ((m - mean) ** 2).sum(0)) / max(n - 1, 1)
        out.append((mean, np.sqrt(variance / n)))
    return out


# ---- is the mean right? ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BiasReport:
    """What `check_unbiased` found.

    Attributes:
        passed: whether no entry is off.
        max_abs_z: the largest distance from the reference in standard errors.
        reference: what the estimates were compared with.
        draws: how many draws were made.
        rows: for the value and each parameter leaf: name, estimate, reference, standard error (all at the entry that is
            furthest off), and z.
    """

    passed: bool
    max_abs_z: float
    reference: str
    draws: int
    rows: tuple[tuple[str, float, float, float, float], ...]

    def __bool__(self):
        return self.passed

    def __str__(self):
        head = ("entry", "estimate", "reference", "std. error", "z")
        rows = [(name, *(f"{x:.5g}" for x in numbers[:3]), f"{numbers[3]:.2f}") for name, *numbers in self.rows]
        verdict = "passed" if self.passed else "FAILED: biased"
        return f"{verdict}, {self.draws} draws against {self.reference}\n{table(head, rows)}"


def check_unbiased(objective: Callable, *args, key: jax.Array, exact: Any = None, draws: int = 100_000) -> BiasReport:
    """Test whether the value and the gradient of an objective have the right means.

    Estimates over many draws are compared with a reference, entry by entry, in two stages: within 4 standard errors at
    `draws`, else with a fresh key and 16 times as many within 5. A right estimator fails about once in 1e6 entries; a
    bias of 7 standard errors at the first stage is seen nearly always.

    The reference is `exact` if given; else exact enumeration, where every site has a finite support and none is in a
    loop, a branch or a plate; else the score function at every site that allows it, which is unbiased wherever the
    densities are smooth in the parameters.

    Args:
        objective: `objective(key, *args) -> scalar`, an `expectation` or a function of one.
        *args: its arguments; derivatives are taken in all floating-point arrays among them.
        key: one typed key.
        exact: a function of `*args` that returns the exact expectation; or the pair of its value and its gradients, a
            tuple of the structure of `args`.
        draws: how many draws the first stage makes.

    Returns:
        A `BiasReport`: passed, max_abs_z, rows; it prints as a table and is true when it passed.

    Example:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p), estimator=tg.reinforce()))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> tg.check_unbiased(f, 0.25, key=jax.random.key(0), draws=10_000).passed
        True
    """
    check_key(key, "check_unbiased")
    run, names, at, point = _gradient(objective, args)
    first, second, other = jax.random.split(key, 3)
    name, expected = _reference(objective, run, at, point, args, exact, other, draws)
    report = _compare(names, _moments(run, first, draws), expected, name, draws, limit=4.0)
    if not report.passed:
        if exact is None and name == SCORE:
            expected = _reference(objective, run, at, point, args, exact, jax.random.fold_in(other, 1), 16 * draws)[1]
        report = _compare(names, _moments(run, second, 16 * draws), expected, name, 16 * draws, limit=5.0)
    return report


SCORE = "the score function at every site"


def _reference(objective, run, at, point, args, exact, key, draws):
    if exact is not None:
        if callable(exact):
            value, grads = jax.value_and_grad(lambda xs: exact(*at(xs)))(point)
        else:
            value, grads = exact
            grads = [g for g, x in zip(jax.tree.leaves(grads), jax.tree.leaves(args), strict=True) if _trains(x)]
        return "given values", [(np.asarray(y, np.float64), 0.0) for y in (value, *grads)]
    enumerated = choose_estimators(objective, lambda label, present: enum())
    try:
        values = jax.jit(lambda k: run(k, enumerated))(key)
        return "exact enumeration", [(np.asarray(y, np.float64), 0.0) for y in values]
    except EstimatorError:
        pass

    def score(label, present):
        return reinforce() if not isinstance(present, type(enum())) else None

    scored = choose_estimators(objective, score)
    return SCORE, _moments(lambda k: run(k, scored), key, draws)


def _trains(x):
    return isinstance(x, float) or is_inexact(x)


def _compare(names, found, expected, reference, draws, *, limit):
    rows = []
    for name, (mean, error), (truth, doubt) in zip(names, found, expected, strict=True):
        off = np.ravel(mean - truth)
        scale = np.ravel(np.sqrt(error**2 + np.asarray(doubt) ** 2) + np.zeros_like(mean))
        rounding = 1e-5 * np.ravel(np.maximum(np.abs(truth), np.abs(mean)) + np.zeros_like(mean)) + 1e-7
        z = off / np.sqrt(scale**2 + rounding**2)
        i = int(np.argmax(np.abs(z)))
        truth = np.ravel(truth + np.zeros_like(mean))
        rows.append((name, float(np.ravel(mean)[i]), float(truth[i]), float(scale[i]), float(z[i])))
    worst = max(abs(z) if np.isfinite(z) else np.inf for *_, z in rows)
    return BiasReport(worst <= limit, worst, reference, draws, tuple(rows))


# ---- what does the variance cost? -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What `compare_estimators` found: a row for each choice, the best first.

    Each row is a dict: choice (address pattern to estimator), variance (of the gradient, summed over all entries),
    by_leaf (the same for each parameter leaf), milliseconds (of one gradient, in a batch), cost (variance times
    milliseconds), refused (None, or why the choice cannot be made).
    """

    sites: tuple[str, ...]
    leaves: tuple[str, ...]
    rows: tuple[dict, ...]

    @property
    def best(self) -> dict:
        """The choice of least variance times cost, for `with_estimators`."""
        return self.rows[0]["choice"]

    def by_site(self) -> dict[str, dict[str, float]]:
        """For each site and estimator the least variance over the choices at the other sites."""
        out: dict[str, dict[str, float]] = {site: {} for site in self.sites}
        for row in self.rows:
            for site, estimator in row["choice"].items():
                least = out[_name(site)]
                least[str(estimator)] = min(row["variance"], least.get(str(estimator), np.inf))
        return out

    def __str__(self):
        head = (*self.sites, "variance", "ms", "variance x ms", *(f"var {leaf}" for leaf in self.leaves), "")
        rows = []
        for i, row in enumerate(self.rows):
            numbers = [row["variance"], row["milliseconds"], row["cost"], *row["by_leaf"].values()]
            cells = ["-"] * len(head[len(self.sites) : -1]) if row["refused"] else [f"{x:.4g}" for x in numbers]
            mark = "refused" if row["refused"] else "best" if i == 0 else ""
            rows.append((*map(str, row["choice"].values()), *cells, mark))
        return table(head, rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw variance against time for each choice, by matplotlib; returns the axes."""
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        for row in self.rows:
            if not row["refused"]:
                ax.scatter(row["milliseconds"], row["variance"])
                ax.annotate(", ".join(map(str, row["choice"].values())), (row["milliseconds"], row["variance"]))
        ax.set(xscale="log", yscale="log", xlabel="ms per gradient", ylabel="gradient variance")
        return ax


def compare_estimators(
    objective: Callable, *args, key: jax.Array, sites: Mapping[Any, list[Estimator]], draws: int = 1000
) -> Comparison:
    """Measure the gradient variance and the time of an objective under every combination of estimators.

    Args:
        objective: `objective(key, *args) -> scalar`.
        *args: its arguments, where the variance is measured; derivatives are taken in all floating-point arrays.
        key: one typed key.
        sites: from address patterns to the estimators to try there.
        draws: gradients drawn for each combination, in one batch.

    Returns:
        A `Comparison`, the least variance times cost first; it prints as a table, and `plot()` draws it. Times are of
        this machine, medians of five runs; combinations that a site refuses are listed as refused.

    Example:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> found = tg.compare_estimators(f, 0.25, key=jax.random.key(0), sites={"b": [tg.reinforce(), tg.mvd()]})
        >>> found.best
        {'b': mvd()}
    """
    check_key(key, "compare_estimators")
    names = _gradient(objective, args)[1][1:]
    rows = []
    for estimators in itertools.product(*sites.values()):
        choice = dict(zip(sites, estimators, strict=True))
        try:
            rows.append(_measure(with_estimators(objective, choice), args, names, key, draws, choice))
        except EstimatorError as error:
            rows.append({"choice": choice, "variance": np.inf, "by_leaf": {}, "milliseconds": np.inf, "cost": np.inf})
            rows[-1]["refused"] = str(error)
    rows.sort(key=lambda row: row["cost"])
    return Comparison(tuple(map(_name, sites)), tuple(names), tuple(rows))


def _name(pattern) -> str:
    return pattern if isinstance(pattern, str) else "/".join(pattern)


def _measure(objective, args, names, key, draws, choice):
    run = _gradient(objective, args)[0]
    batch = jax.jit(lambda keys: jax.vmap(lambda k: run(k)[1:])(keys)).lower(jax.random.split(key, draws)).compile()
    keys = jax.random.split(key, draws)
    grads = jax.block_until_ready(batch(keys))
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(batch(keys))
        seconds.append(time.perf_counter() - begun)
    by_leaf = {n: float(np.sum(np.var(np.asarray(g, np.float64), axis=0))) for n, g in zip(names, grads, strict=True)}
    variance, each = sum(by_leaf.values()), 1e3 * float(np.median(seconds)) / draws
    return {
        "choice": choice,
        "variance": variance,
        "by_leaf": by_leaf,
        "milliseconds": each,
        "cost": variance * each,
        "refused": None,
    }
