"""Where a number that is not finite comes from: the operation, the sample site, and the line of the program.

A program is run operation by operation, and from an output that is not finite the trail is followed back through
operands that are not either, to the operation that made it of finite ones. Values that a `where` leaves out are not on
the trail. Loops are entered at the first step that goes wrong, branches where they were taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .._jax import Literal, evaluate, is_key, param, scopes_of, segment, source_line, trace, vmapped
from ..program._site import SCOPE
from ..program.control import control_of


def nonfinite(fun: Callable, *args: Any) -> str | None:
    """Say where the first output of `fun(*args)` that is not finite comes from; None where all are finite.

    An operation of no site, such as one of the user's own, is told with the site that its result goes into.
    """
    traced = trace(fun, *args)
    eqn, site = _search(traced.jaxpr, [*traced.consts, *jax.tree.leaves(args)])
    if eqn is None:
        return None
    own, line = _site(eqn), source_line(eqn)
    where = f"at the site {own!r}" if own else f"on the way into the site {site!r}" if site else ""
    parts = [f"`{eqn.primitive.name}`", where, f"({line})" if line else ""]
    return " ".join(part for part in parts if part)


def _is_bad(x):
    inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact) if not is_key(x) else False
    return inexact and not np.all(np.isfinite(np.asarray(x)))


def _first_bad(atoms, env):
    return next((a for a in atoms if not isinstance(a, Literal) and _is_bad(env[a])), None)


def _search(jaxpr, inputs):
    """The equation that made the first output that is not finite, of operands that are; None where there is none.

    And the site that the trail met last, on its way back to it.
    """
    env, made = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True)), {}
    for eqn in jaxpr.eqns:
        reads = list(dict.fromkeys(a for a in eqn.invars if not isinstance(a, Literal)))
        outs = evaluate(segment(jaxpr, [eqn], reads, eqn.outvars), *[env[v] for v in reads])
        env.update(zip(eqn.outvars, outs, strict=True))
        made.update(dict.fromkeys(eqn.outvars, eqn))
    at, trail = _first_bad(jaxpr.outvars, env), []
    while at in made:
        trail.append(made[at])
        at = _first_bad(made[at].invars, env)
    if not trail:
        return None, None

    def inside(eqn):
        return _inside(eqn, [a.val if isinstance(a, Literal) else env[a] for a in eqn.invars])

    (*later, eqn), (inner, site) = trail, inside(trail[-1])
    own = eqn if inner is None or (_site(eqn) and not _site(inner)) else inner
    sites = (_site(eqn) or inside(eqn)[1] for eqn in reversed(later))
    return own, _site(own) or _site(eqn) or site or next(filter(None, sites), None)


def _inside(eqn, operands):
    """The equation within a loop, a branch or a call, and the site that it goes into."""
    if eqn.primitive.name == "expectation":
        traced = trace(vmapped(param(eqn, "program").values, param(eqn, "lanes")), *operands)
        return _search(traced.jaxpr, [*traced.consts, *operands])
    control = control_of(eqn)
    entered = None if control is None else control.enter(eqn, operands, _is_bad)
    return (None, None) if entered is None else _search(*entered)


def _site(eqn):
    """The label of the sample site that an equation belongs to, or None."""
    found = re.findall(re.escape(SCOPE) + r"([^()]*)", scopes_of(eqn))
    return found[-1] if found else None
