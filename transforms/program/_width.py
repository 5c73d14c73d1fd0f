"""How many alternatives the forking sites of a program name, over all lanes and loop steps."""

from __future__ import annotations

from typing import Any

from .._estimator import Fork
from .._samples_in import samples
from ._plan import Step, plan_of
from ._site_terms import fork_shape
from .control import control_of


def width(step: Step) -> int:
    """How many alternatives a step names."""
    if step.width is None:
        step.width = _width(step)
    return step.width


def width_of(jaxpr: Any) -> int:
    """How many alternatives an open jaxpr names."""
    return sum(map(width, plan_of(jaxpr).draws)) if samples(jaxpr) else 0


def _width(step):
    if step.name == "sample":
        forks = isinstance(step.site.prototype(), Fork)
        return fork_shape(step.site, [v.aval for v in step.eqn.invars], step.lanes).size if forks else 0
    control = control_of(step.eqn)
    return 0 if control is None else control.width(step.eqn, width_of)
