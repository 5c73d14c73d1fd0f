"""What an objective does at each of its sites: the report behind `describe_estimators`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from ._arguments import objective_function
from ._errors import name_of
from ._estimator import Enumerate, Estimator, Path
from ._jax import is_inexact_aval, lane_shape, param, without_lanes
from ._pytree import size
from ._sample import default_estimator
from .analysis._discontinuities import jumps_of
from .program._plan import plan_of
from .program._site import value_struct
from .program._trace_call import trace_call
from .program._width import width
from .program.control import control_of


class SiteReport(NamedTuple):
    """One sample site of an objective.

    Attributes:
        label: its label, a path of addresses.
        distribution: the name of its family.
        estimator: the estimator in use.
        reason: the default rule, or chosen.
        where: the loops and branches around it.
        draws: how many draws it makes: lanes times loop steps.
        runs: how many further runs of what follows its gradient costs: forks, or values enumerated.
        jumps: where its path derivative, if it has one, meets a discontinuity that reaches the objective, and is
            biased by it: the operation and its source line.
        hint: what is to be said of a default: that the distribution does not say whether it is reparameterised, so
            that it was taken for one that is not.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import describe_sites, expectation, mvd, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=mvd(), label=("coin",)))
        >>> (report,) = describe_sites(f, jax.random.key(0), 0.25)
        >>> report.label, report.distribution, report.runs, report.jumps
        (('coin',), 'BernoulliProbs', 1, ())
    """

    label: Any
    distribution: str
    estimator: Estimator
    reason: str
    where: str
    draws: int
    runs: int
    jumps: tuple[str, ...] = ()
    hint: str = ""


class Description(tuple[SiteReport, ...]):
    """The sites of an objective in the order of the program; prints as a table.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import describe_sites, expectation, sample
        >>> f = expectation(lambda key, m: sample(key, dist.Normal(m, 1.0), label=("z",)))
        >>> print(describe_sites(f, jax.random.key(0), 0.0))
        address  distribution  estimator  why      where  draws  runs
        -------  ------------  ---------  -------  -----  -----  ----
        z        Normal        reparam()  default  -      1      0
    """

    def __str__(self):
        head = ("address", "distribution", "estimator", "why", "where", "draws", "runs")
        rows = [(name_of(r.label).strip("'"), *map(str, r[1 : len(head)])) for r in self]
        jumps = dict.fromkeys((row[0], jump) for row, r in zip(rows, self, strict=True) for jump in r.jumps)
        notes = [f"{site}: its path derivative misses a discontinuity, {jump}" for site, jump in jumps]
        hints = [f"{row[0]}: {r.hint}" for row, r in zip(rows, self, strict=True) if r.hint]
        return "\n".join([table(head, rows), *notes, *hints])


def table(head: tuple[str, ...], rows: list) -> str:
    """Rows of text in aligned columns under a head."""
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def describe_sites(fun: Callable, *args, **kwargs) -> Description:
    """The sample sites of an objective at these arguments, without running it; see `describe_estimators`.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import describe_sites, expectation, sample
        >>> f = expectation(lambda key, m: sample(key, dist.Normal(m, 1.0)) ** 2)
        >>> [str(report.estimator) for report in describe_sites(f, jax.random.key(0), 0.0)]
        ['reparam()']
    """
    objective_function("describe_estimators", fun)
    # A float given by position is a parameter, as it is for `jax.grad`.
    args = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, args)
    traced = trace_call(fun, args, kwargs)
    varied = tuple(is_inexact_aval(v.aval) for v in (*traced.jaxpr.constvars, *traced.jaxpr.invars))
    jumps: dict[Any, list[str]] = {}
    for jump in jumps_of(traced.jaxpr, varied, len(traced.jaxpr.outvars)):
        jumps.setdefault(jump.label, []).append(str(jump))
    sites = _sites(traced.jaxpr, 1, ())
    return Description(
        r._replace(jumps=tuple(jumps.get(r.label, ())) if isinstance(r.estimator, Path) else ()) for r in sites
    )


def _sites(jaxpr, times: int, where: tuple[str, ...]) -> Iterator[SiteReport]:
    for step in plan_of(jaxpr).draws:
        if step.name == "sample":
            if param(step.eqn, "site").estimator is not None:
                yield _report(step, times, where)
            continue
        control = control_of(step.eqn)
        for body in [] if control is None else control.bodies(step.eqn):
            yield from _sites(body.jaxpr, times * body.times, (*where, body.where))


def _report(step, times, where):
    site, lanes = param(step.eqn, "site"), param(step.eqn, "lanes")
    avals = without_lanes([v.aval for v in step.eqn.invars], lanes)
    found: list = []

    def look(_, *arrays):
        distribution, estimator = site.restore(arrays)
        values = estimator.enumerate(distribution)[1].shape[0] if isinstance(estimator, Enumerate) else 0
        found.extend((distribution, default_estimator(distribution), values))
        return 0

    jax.eval_shape(look, *avals)
    distribution, default, values = found
    kind = site.prototype()
    plates = [f"vmap {n}" for n in lane_shape(lanes)]
    return SiteReport(
        site.label,
        _family(distribution),
        kind,
        "default" if isinstance(kind, type(default)) else "chosen",
        ", ".join([*where, *plates]) or "-",
        times * size(lane_shape(lanes)),
        times * width(step) or values,
        hint=_hint(distribution) if isinstance(kind, type(default)) else "",
    )


def _hint(distribution) -> str:
    """What is to be said where the default rule has nothing to go by."""
    if getattr(distribution, "has_rsample", None) is not None or not is_inexact_aval(value_struct(distribution)):
        return ""
    name = type(distribution).__name__
    return (
        f"{name} does not say whether the derivative of its draws is the pathwise one, so the default is the score "
        f"function. If it is, write `has_rsample = True` in {name}; if not, `has_rsample = False`."
    )


def _family(distribution) -> str:
    base = getattr(distribution, "base_dist", None)
    name = type(distribution).__name__
    return name if base is None else f"{name}({_family(base)})"
