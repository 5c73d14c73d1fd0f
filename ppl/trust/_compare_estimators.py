"""`compare_estimators`: what does the variance of a gradient cost?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from ..core._arguments import listed, mapping
from ..transforms import Estimator, EstimatorError
from ..transforms._internal import check_key, table, whole
from ._estimator_choice import with_estimators
from ._gradients import gradient_of, one_float


@dataclass(frozen=True)
class Comparison:
    """What `compare_estimators` found: a row for each choice, the best first.

    Each row is a dict: choice (address pattern to estimator), variance (of the gradient, summed over all entries),
    by_leaf (the same for each parameter leaf), milliseconds (of one gradient, in a batch), cost (variance times
    milliseconds), refused (None, or why the choice cannot be made).

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> found = tg.compare_estimators(f, 0.25, key=jax.random.key(0), sites={"b": [tg.mvd(), tg.reinforce()]})
        >>> found.by_site()["b"]["mvd()"]
        0.0
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
    objective: Callable, *args, key: Key[Array, ""], sites: Mapping[Any, list[Estimator]], draws: int = 1000
) -> Comparison:
    """Measure the gradient variance and the time of an objective under every combination of estimators.

    Args:
        objective: `objective(key, *args) -> scalar`.
        *args: its arguments, where the variance is measured; derivatives are taken in all floating-point arrays.
        key: one typed key.
        sites: from address patterns to the estimators to try there.
        draws: gradients drawn for each combination, in one batch; at least 2.

    Returns:
        A `Comparison`, the least variance times cost first; it prints as a table, and `plot()` draws it. Times are of
        this machine, medians of five runs; combinations that a site refuses are listed as refused.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> found = tg.compare_estimators(f, 0.25, key=jax.random.key(0), sites={"b": [tg.reinforce(), tg.mvd()]})
        >>> found.best
        {'b': mvd()}
    """
    check_key(key, "compare_estimators")
    objective = one_float("compare_estimators", objective)
    draws = whole("compare_estimators", "draws, of which a variance is taken,", draws, EstimatorError, least=2)
    for site, estimators in mapping("compare_estimators", "sites", sites, "from patterns to estimators").items():
        if not listed("compare_estimators", estimators, f" of estimators for {site!r}"):
            raise EstimatorError(f"compare_estimators: there is no estimator to try at {site!r}. Name one.")
        for given in estimators:
            if not isinstance(given, Estimator):
                raise EstimatorError(f"compare_estimators: {given!r} at {site!r} is no estimator. Write one, `mvd()`.")
    names = gradient_of(objective, args)[1][1:]
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
    run = gradient_of(objective, args)[0]
    leaves, keys = jax.tree.leaves(args), jax.random.split(key, draws)
    arrays, static = eqx.partition(leaves, eqx.is_array)

    @jax.jit
    def batch(keys, arrays):
        return jax.vmap(lambda k: run(k, values=eqx.combine(arrays, static))[1:])(keys)

    grads = jax.block_until_ready(batch(keys, arrays))
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(batch(keys, arrays))
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
