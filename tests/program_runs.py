"""Random programs in the language and on the primitive, and their exact averages."""

import jax
import numpy as np
from exactly import backward, exact_key, forward
from jax import lax
from jax import numpy as jnp
from program_sums import sums
from random_programs import (
    FAMILIES,
    NODES_OF_NOISE,
    Branch,
    Call,
    Draw,
    Loop,
    Plate,
    W,
    after,
    draws_of,
    law,
    meet,
    objective,
)

import tracegrad as tg
from tracegrad.transforms import sample

KEY = exact_key()

# ---- in the language -------------------------------------------------------------------------------------------------


def _function(statements):
    @tg.gen
    def program(w, flag, total):
        for i, statement in enumerate(statements):
            flag, total = SAY[type(statement)](statement, f"{_name(statement)}{i}", w, flag, total)
        return flag, total

    return program


def _name(statement):
    """An address that says what is there, so that branches share those alone that hold the same."""
    return statement.family if isinstance(statement, Draw) else type(statement).__name__.lower()


def _new_state(draw, w, z, flag, total):
    z = z.astype(float)
    return (flag if draw.family == "normal" else jnp.minimum(z, 1.0)), after(draw, w, z, total)


def _say_draw(draw, address, w, flag, total):
    family = FAMILIES[draw.family]
    estimator, _, _ = family.estimators[draw.estimator]
    z = tg.sample(address, family.distribution(law(w, flag)), estimator=estimator)
    return _new_state(draw, w, z, flag, total)


def _say_loop(loop, address, w, flag, total):
    body = _function(loop.body)
    step = tg.gen(lambda state, _: ((w, *body.inline(*state)), None))
    return tg.sample(address, step.scan(2, reverse=loop.reverse)((w, flag, total), None))[0][1:]


def _say_plate(plate, address, w, flag, total):
    lanes = _function(plate.body).vmap(in_axes=(None, None, 0))
    flags, totals = tg.sample(address, lanes(w, flag, jnp.stack([total, 2.0 * total])))
    return flags[1], meet(plate, totals[0], totals[1])


SAY = {
    Draw: _say_draw,
    Branch: lambda b, address, w, flag, total: tg.sample(
        address, tg.cond(flag > 0.5, _function(b.yes), _function(b.no))(w, flag, total)
    ),
    Loop: _say_loop,
    Plate: _say_plate,
    Call: lambda call, address, w, flag, total: tg.sample(address, _function(call.body)(w, flag, total)),
}

# ---- on the primitive ------------------------------------------------------------------------------------------------


def _run(statements, key, w, flag, total):
    for i, statement in enumerate(statements):
        flag, total = RUN[type(statement)](statement, jax.random.fold_in(key, i), w, flag, total)
    return flag, total


def _run_draw(draw, key, w, flag, total):
    family = FAMILIES[draw.family]
    estimator, _, _ = family.estimators[draw.estimator]
    return _new_state(draw, w, sample(key, family.distribution(law(w, flag)), estimator=estimator), flag, total)


def _run_branch(branch, key, w, flag, total):
    # One key on both sides where its noise is of one kind; exact_expectation matches the outcomes of no other.
    mixed = any(draw.family == "normal" for draw in draws_of((branch,)))
    keys = [jax.random.fold_in(key, mixed * i) for i in range(2)]
    sides = [
        lambda f, t, side=side, key=key: _run(side, key, w, f, t)
        for side, key in zip((branch.yes, branch.no), keys, strict=True)
    ]
    return lax.cond(flag > 0.5, *sides, flag, total)


def _run_loop(loop, key, w, flag, total):
    keys = jax.random.split(key, 2)
    step = lambda state, k: (_run(loop.body, k, w, *state), None)  # noqa: E731
    return lax.scan(step, (flag, total), keys, reverse=loop.reverse)[0]


def _run_plate(plate, key, w, flag, total):
    lanes = jax.vmap(lambda k, t: _run(plate.body, k, w, flag, t))
    flags, totals = lanes(jax.random.split(key, 2), jnp.stack([total, 2.0 * total]))
    return flags[1], meet(plate, totals[0], totals[1])


RUN = {
    Draw: _run_draw,
    Branch: _run_branch,
    Loop: _run_loop,
    Plate: _run_plate,
    Call: lambda call, key, w, flag, total: jax.jit(lambda *xs: _run(call.body, *xs))(key, w, flag, total),
}


def estimate(program):
    """The program as an `expectation`, a function of a key and the parameters."""

    def f(key, w):
        if program.primitive:
            return objective(w, *_run(program.statements, key, w, jnp.zeros(()), w[0]))
        tr = _function(program.statements).simulate(key, w, jnp.zeros(()), w[0])
        return objective(w, *tr.retval) + program.density * tr.logp

    return tg.expectation(f, credit=program.credit, forks=program.forks, chunk_size=program.chunk_size)


# ---- exact averages --------------------------------------------------------------------------------------------------


def check(program):
    """Value and gradient, exactly; in forward mode or backward."""
    with jax.enable_x64(True):
        mean = tg.exact_expectation(estimate(program), nodes=NODES_OF_NOISE)
        derivative = backward if program.backward else forward
        value, gradient = derivative(lambda w: mean(KEY, w), jnp.asarray(W))
    expected, expected_gradient = sums(program)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg="value")
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9, err_msg="gradient")


def deviation(program):
    """What is wrong with a program: None where nothing is."""
    try:
        check(program)
    except Exception as error:  # whatever comes is shown with the program
        return f"check({program})\n    {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return None
