"""Whether a program holds a draw, and which: the first question of every pass over a jaxpr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ._jax import inner_jaxprs, param
from ._per_jaxpr import once_per_jaxpr


@once_per_jaxpr
def samples(jaxpr: Any) -> bool:
    """Whether a jaxpr holds a sample, at any depth."""
    return any(map(samples_in, jaxpr.eqns))


def samples_in(eqn: Any) -> bool:
    """Whether an equation is a sample or holds one."""
    return eqn.primitive.name in ("sample", "expectation") or any(map(samples, inner_jaxprs(eqn)))


def sites_in(eqns: Iterable[Any]) -> Iterator[Any]:
    """The sites of equations that are samples with an estimator, or hold some, at any depth."""
    for eqn in eqns:
        if eqn.primitive.name == "sample" and param(eqn, "site").estimator is not None:
            yield param(eqn, "site")
        for inner in inner_jaxprs(eqn):
            yield from sites_in(inner.eqns)
