"""A program whose outcomes are to be summed: its draws noise, and no randomness in it that cannot be enumerated."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .._errors import EstimatorError, ObjectiveError
from .._jax import inner_jaxprs, trace
from .._samples_in import samples_in
from ..program._interpreter import Mode, run
from ..program._plan import plan_of
from ..program._trace_call import TracedCall
from ..program.control import control_of

RAW = {"random_bits", "random_gamma", "random_unwrap", "threefry2x32"}
"""The JAX primitives by which a program makes random numbers of its own."""


def rewrite(call: TracedCall, mode: Mode, what: str) -> tuple[Any, list]:
    """The jaxpr of a call as a mode runs it, and its operands."""
    plan = plan_of(call.jaxpr, nested=mode.nested is not None)
    written = trace(lambda *xs: run(plan, xs, mode)[0], *call.operands)
    _refuse_unknown(written.jaxpr, what)
    return written.jaxpr, [*written.consts, *call.operands]


def _refuse_unknown(jaxpr, what):
    """Refuse what cannot be enumerated."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in RAW:
            raise EstimatorError(
                f"{what}: the program makes random numbers of its own (JAX primitive '{name}'), which "
                "cannot be enumerated. Draw through `sample` in a program, through `noise` in an estimator."
            )
        endless = _endless(eqn)
        if endless is not None and samples_in(eqn):
            raise EstimatorError(
                f"{what}: a draw is inside {endless}, whose number of draws is not known. Use "
                "`lax.scan` or `lax.fori_loop` with a fixed number of steps, or test by statistics."
            )
        for inner in inner_jaxprs(eqn):
            _refuse_unknown(inner, what)


def _endless(eqn):
    """The construct in words, if it repeats a program who knows how often."""
    control = control_of(eqn)
    turn = None if control is None else control.turn(eqn, eqn.invars)
    return None if turn is None or turn.times is not None else turn.what


def known(x: Any) -> np.ndarray:
    """An array that is not traced."""
    try:
        return np.asarray(x)
    except jax.errors.JAXTypeError as error:
        raise ObjectiveError(
            "exact_expectation runs on known values: call it outside `jit` and `vmap`. `jax.grad`, `jacfwd`, `jacrev` "
            "and `hessian` of it work."
        ) from error
