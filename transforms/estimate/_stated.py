"""An objective that states its own gradient, as a part of another objective.

Its draws are spent: what is left of them is noise, and the derivative of its value is an unbiased estimate as it
stands. Added to other terms, or scaled by what does not depend on it, it stays one. A square of it does not: the mean
of the square has scores of those draws, which nobody can give any more. So the value is marked where it leaves the
objective, and from there to the outer one's outputs only linear operations may follow.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from .._errors import ObjectiveError
from .._jax import Literal, inner_jaxprs, make_primitive, param, vmapped
from ..program._plan import Step, inline
from ._linear_tail import SUMS, UNARY

FREE, STATED, SPENT = range(3)
"""What a value has of draws that are spent: nothing; linearly, an objective with its own gradient; anything else."""


def stated(value: jax.Array) -> jax.Array:
    """The value of an objective that states its own gradient, marked as such.

    `expectation` around it then refuses all but sums and multiples of it. `with_surrogate` marks its value itself.

    Examples:
        >>> import jax
        >>> from tracegrad.transforms import stated
        >>> float(jax.grad(lambda x: 2.0 * stated(x * x))(3.0))
        12.0
    """
    return _bind(jnp.asarray(value))[0]


def _run(x, *, lanes):
    return vmapped(lambda x: [x], lanes)(x)


def _shapes(avals, *_):
    return [(avals[0].shape, avals[0].dtype)]


def _jvp(primals, tangents, at, *, lanes):
    return _bind(*primals, lanes=lanes), list(tangents)


def _any_lane(mapped):
    """Any value may be mapped."""


_bind = make_primitive("stated", run=_run, shapes=_shapes, jvp=_jvp, check_lane=_any_lane)


def check_stated(jaxpr: Any, objectives: int) -> None:
    """Refuse a program whose objectives depend on spent draws otherwise than linearly.

    Raises:
        ObjectiveError: one does.
    """
    flat = inline(jaxpr, opaque=set())
    if not any(map(_spends, flat.items)):
        return
    state: dict = {}
    for item in flat.items:
        reads, writes = (item.reads, item.writes) if isinstance(item, Step) else (item.invars, item.outvars)
        given = [FREE if isinstance(a, Literal) else state.get(a, FREE) for a in reads]
        state.update(dict.fromkeys(writes, _after(item, given)))
    outputs = flat.outputs[:objectives]
    if any(state.get(v, FREE) == SPENT for v in outputs if not isinstance(v, Literal)):
        raise ObjectiveError(
            "An objective inside an `expectation` has spent its draws on a gradient of its own (a derivative taken "
            "there, or vimco, vargrad, leave_one_out, dreg, ...), and the outer objective is not linear in it: such a "
            "gradient may be summed and scaled by what does not depend on it, outside of loops and branches. Write "
            "the outer objective so, or use an objective whose draws are still open there, `elbo` or `iwelbo`, and "
            "differentiate once, outside."
        )


def _spends(item):
    """Whether spent draws are in an equation, at any depth; noise is what is left of them."""
    return isinstance(item, Step) and _noisy(item.eqn)


def _noisy(eqn):
    if eqn.primitive.name == "sample":
        return param(eqn, "site").estimator is None
    return any(_noisy(e) for inner in inner_jaxprs(eqn) for e in inner.eqns)


def _after(item, given):
    if _spends(item):
        return SPENT
    eqn = getattr(item, "eqn", item)
    if eqn.primitive.name == "stated":
        return STATED if any(given) else FREE
    if not any(given):
        return FREE
    return STATED if SPENT not in given and _linear(eqn.primitive.name, given) else SPENT


def _linear(name, given):
    """Whether an operation is linear in the stated operands together."""
    return (
        name in SUMS
        or name in UNARY
        or (name in ("mul", "dot_general") and given.count(STATED) == 1)
        or (name in ("div", "gather", "dynamic_slice") and given[0] == STATED and given.count(STATED) == 1)
        or (name == "select_n" and given[0] == FREE)
    )
