"""`lax.while_loop`: a loop of unknown length."""

from __future__ import annotations

import jax
from jax import lax
from jax import numpy as jnp

from ..._errors import EstimatorError, NoRuleError
from ..._jax import evaluate_with, make_forward_only, param, vary, varying_axes
from ..._pytree import is_inexact
from ..._samples_in import samples
from ._base import Control, Turn, body


class While(Control):
    """A condition and a body."""

    names = ("while",)
    functions = ("while_loop",)

    def bodies(self, eqn):
        """The body, then the condition."""
        return [body(param(eqn, "body_jaxpr"), "while"), body(param(eqn, "cond_jaxpr"), "while")]

    def turn(self, eqn, states):
        """The body; the condition is not a part of it."""
        _, shared, carry = self.split(eqn, list(states))
        return Turn(param(eqn, "body_jaxpr"), shared, carry, [], None, "a `while_loop`")

    def run(self, step, operands, mode, alternative):
        """The same loop; scores are carried, since nothing can be stacked."""
        if step.width:
            raise EstimatorError(
                "A forking estimator (mvd, local_expectation) is inside a `while_loop`, whose number of steps, and so "
                "of alternatives, is not known. Use `lax.scan` or `fori_loop` with a fixed number of steps, or "
                "`reinforce()`."
            )
        turn, condition = self.bodies(step.eqn)
        if samples(condition.jaxpr):
            raise NoRuleError(
                "A sample in the condition of a `while_loop` has no rule. Draw it in the body, and carry it."
            )
        (cond_consts, body_consts, init), axes = self.split(step.eqn, operands), varying_axes(operands)
        lanes = _lanes(condition)

        def going(state):
            return mode.inner(condition.jaxpr, [*condition.consts, *cond_consts, *state], None)[0][0]

        def one(state):
            old, before = state
            on = going(old) if lanes else None
            at = mode.among(step.eqn, on) if lanes else mode
            outs, record = at.inner(turn.jaxpr, [*turn.consts, *body_consts, *old], None)
            outs = [_where(on, x, y) for x, y in zip(outs, old, strict=True)] if lanes else outs
            return outs, vary(mode.records.join([before, record]), axes)

        outs, record = lax.while_loop(lambda s: jnp.any(going(s[0])), one, (init, vary(mode.records.zero(), axes)))
        return jax.tree.map(lambda x: _forward_only(x) if is_inexact(x) else x, (outs, record))

    def split(self, eqn, operands):
        """What belongs to the condition, to the body, and to the carry."""
        n, m = param(eqn, "cond_nconsts"), param(eqn, "body_nconsts")
        return operands[:n], operands[n : n + m], operands[n + m :]

    def flow(self, eqn, states, domain):
        """Settled over the turns; the condition decides what comes out."""
        cond_states, body_states, carry = self.split(eqn, list(states))

        def turn(carry):
            (going,) = domain.through(param(eqn, "cond_jaxpr"), [*cond_states, *carry])
            outs = domain.through(param(eqn, "body_jaxpr"), [*body_states, *carry])
            return [domain.choose(going, [out], len(_lanes(self.bodies(eqn)[1]))) for out in outs]

        return domain.settle(turn, carry)[0]

    def inside(self, eqn, states, outs, domain):
        """The body at the settled state."""
        return [(self.bodies(eqn)[0].jaxpr, [*self.split(eqn, list(states))[1], *outs])]

    def enter(self, eqn, operands, is_bad):
        """The first turn that goes wrong."""
        cond_consts, body_consts, carry = self.split(eqn, operands)
        once, condition = self.bodies(eqn)
        test = jax.jit(lambda *xs: evaluate_with(condition.jaxpr, [*condition.consts, *xs]))
        turn = jax.jit(lambda *xs: evaluate_with(once.jaxpr, [*once.consts, *xs]))
        while bool(test(*cond_consts, *carry)[0]):
            outs = turn(*body_consts, *carry)
            if any(map(is_bad, outs)):
                return once.jaxpr, [*once.consts, *body_consts, *carry]
            carry = outs
        return None


def _lanes(condition):
    """The shape of the condition: under a `vmap` in which lanes end apart each has one of its own."""
    return condition.jaxpr.outvars[0].aval.shape


def _where(lanes, new, old):
    """The new state in lanes that go on, which are its leading axes."""
    return jnp.where(jnp.reshape(lanes, lanes.shape + (1,) * (new.ndim - lanes.ndim)), new, old)


_forward_only = make_forward_only(
    "forward_only",
    lambda: NoRuleError(
        "Reverse-mode differentiation through a `while_loop` with samples inside: JAX keeps no record of a loop of "
        "unknown length. Use the bounded loop: `lax.scan` or `lax.fori_loop` with a fixed number of steps, and mask "
        "the steps past the end; or forward mode (`jax.jvp`, `jax.jacfwd`)."
    ),
)
