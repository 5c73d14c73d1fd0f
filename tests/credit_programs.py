"""Programs of flips, each written twice: as a program, and as a plain sum over outcomes.

Flips have probability 1/4, 1/2 or 3/4, whose noise a grid of four cells enumerates exactly: logits are multiples of log
3, and the parameter w is zero; its derivatives are what is tested. `..._sums` says the same with `draw(logit)`, which
gives the outcome of one flip, in order; it knows no key, loop, lane or branch.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

A = float(np.log(3.0))
FLIP = tg.gen(lambda logit: tg.sample("z", dist.Bernoulli(logits=logit), estimator=tg.reinforce()).astype(float))
PROGRAMS: dict[str, tuple[Callable, Callable, int]] = {}


def flip(key, logit):
    return FLIP.simulate(key, logit).retval


def sums(program: Callable, draws: int):
    """Say what a program comes to, as a function of its flips; `draws` is their number."""

    def register(run):
        PROGRAMS[program.__name__] = (program, run, draws)
        return run

    return register


# ---- lanes and elements ----------------------------------------------------------------------------------------------


def plate(key, w):
    z = jax.vmap(lambda k, a: flip(k, w + a))(jax.random.split(key, 3), jnp.array([A, 0.0, -A]))
    return jnp.sum((z - 0.3) ** 2 * jnp.array([1.0, 2.0, 3.0])) + 0.1 * w


@sums(plate, 3)
def plate_sums(draw, w):
    x, y, z = draw(w + A), draw(w), draw(w - A)
    return (x - 0.3) ** 2 + 2.0 * (y - 0.3) ** 2 + 3.0 * (z - 0.3) ** 2 + 0.1 * w


def mean_of_plate(key, w):
    z = jax.vmap(lambda k: flip(k, w))(jax.random.split(key, 3))
    return jnp.mean(jnp.where(z > 0.5, z * w + 2.0, -1.0).reshape(3, 1) @ jnp.ones((1, 2)))


@sums(mean_of_plate, 3)
def mean_of_plate_sums(draw, w):
    return sum(jnp.where(draw(w) > 0.5, w + 2.0, -1.0) for _ in range(3)) / 3.0


def elements(key, w):
    site = tg.gen(
        lambda: tg.sample(
            "z", dist.Bernoulli(logits=w + jnp.array([A, 0.0])).to_event(1), estimator=tg.reinforce()
        ).astype(float)
    )
    tr = site.simulate(key)
    return jnp.sum(tr.retval * jnp.array([1.0, 5.0])) - tr.logp


@sums(elements, 2)
def elements_sums(draw, w):
    x, y = draw(w + A), draw(w)
    # log p(z) of a flip is z a - log(1 + exp a).
    logp = x * (w + A) - jnp.logaddexp(0.0, w + A) + y * w - jnp.logaddexp(0.0, w)
    return x + 5.0 * y - logp


def nonlinear(key, w):
    z = jax.vmap(lambda k: flip(k, w))(jax.random.split(key, 3))
    return jax.nn.logsumexp(z * 2.0 - w) + z[0]


@sums(nonlinear, 3)
def nonlinear_sums(draw, w):
    x, y, z = draw(w), draw(w), draw(w)
    return jnp.log(jnp.exp(2.0 * x) + jnp.exp(2.0 * y) + jnp.exp(2.0 * z)) - w + x


def indexed(key, w):
    k1, k2 = jax.random.split(key)
    z = jax.vmap(lambda k: flip(k, w))(jax.random.split(k1, 3))
    i = flip(k2, w).astype(int)
    table = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    return jnp.sum(table[z.astype(int), jnp.arange(3)]) + z[i] + lax.dynamic_slice(z, (i,), (2,)).sum()


@sums(indexed, 4)
def indexed_sums(draw, w):
    x, y, z = draw(w), draw(w), draw(w)
    from_table = 6.0 + 3.0 * (x + y + z)
    return from_table + jnp.where(draw(w) > 0.5, 2.0 * y + z, 2.0 * x + y)


def mapped(key, w):
    """A loop without draws over draws made before it: what it gives for each depends on that one alone."""
    k1, k2 = jax.random.split(key)
    z = jax.vmap(lambda k: flip(k, w))(jax.random.split(k1, 3))
    x = flip(k2, w + A)
    costs = lax.map(lambda z: (z - 0.3) ** 2 + jnp.exp(z * w) * x, z)
    return jnp.sum(costs * jnp.array([1.0, 2.0, 3.0]))


@sums(mapped, 4)
def mapped_sums(draw, w):
    zs, x = [draw(w) for _ in range(3)], draw(w + A)
    return sum(i * ((z - 0.3) ** 2 + jnp.exp(z * w) * x) for i, z in enumerate(zs, 1))


# ---- loops -----------------------------------------------------------------------------------------------------------


def steps_in_carry(key, w):
    def body(carry, k):
        c, total = carry
        z = flip(k, w + A * (2.0 * c - 1.0))
        return (z, total + (z - 0.3) ** 2 + 0.5 * c * w), None

    return lax.scan(body, (0.0, 0.0), jax.random.split(key, 3))[0][1]


@sums(steps_in_carry, 3)
def steps_in_carry_sums(draw, w):
    c, total = 0.0, 0.0
    for _ in range(3):
        z = draw(w + A * (2.0 * c - 1.0))
        c, total = z, total + (z - 0.3) ** 2 + 0.5 * c * w
    return total


def steps_stacked(key, w):
    def body(c, k):
        z = flip(k, w + A * (2.0 * c - 1.0))
        return z, (z - 0.3) ** 2 + 0.5 * c

    return jnp.sum(lax.scan(body, 0.0, jax.random.split(key, 3), reverse=True)[1] * jnp.array([1.0, 2.0, 3.0]))


@sums(steps_stacked, 3)
def steps_stacked_sums(draw, w):
    c, total = 0.0, 0.0
    for weight in (3.0, 2.0, 1.0):
        z = draw(w + A * (2.0 * c - 1.0))
        c, total = z, total + weight * ((z - 0.3) ** 2 + 0.5 * c)
    return total


def used_after_a_loop(key, w):
    """What a loop has stacked is no sum: each step's value depends on its own flips and on those of the step before."""

    def body(c, k):
        z = jax.vmap(lambda k, c: flip(k, w + A * c))(jax.random.split(k, 2), c)
        return z, z + 0.5 * c

    ys = lax.scan(body, jnp.zeros(2), jax.random.split(key, 2))[1]
    return jnp.sum(jnp.exp(ys * 0.7 + w) * jnp.array([[1.0, 2.0], [3.0, 4.0]]))


@sums(used_after_a_loop, 4)
def used_after_a_loop_sums(draw, w):
    a, b = draw(w), draw(w)
    c, d = draw(w + A * a) + 0.5 * a, draw(w + A * b) + 0.5 * b
    return sum(i * jnp.exp(y * 0.7 + w) for i, y in enumerate((a, b, c, d), 1))


def upstream_of_a_loop(key, w):
    first, rest = jax.random.split(key)
    b = flip(first, w)

    def body(carry, k):
        c, total = carry
        z = flip(k, w + A * c * b)
        return (z, total + (z - 0.3) ** 2 + b * c), z

    (_, total), zs = lax.scan(body, (b, b * 0.1), jax.random.split(rest, 2))
    return total + 2.0 * b + zs[1] * 3.0 * b + zs[0]


@sums(upstream_of_a_loop, 3)
def upstream_of_a_loop_sums(draw, w):
    b = draw(w)
    y = draw(w + A * b * b)
    z = draw(w + A * y * b)
    total = 0.1 * b + (y - 0.3) ** 2 + b * b + (z - 0.3) ** 2 + b * y
    return total + 2.0 * b + 3.0 * z * b + y


def operands_in_common(key, w):
    """Two operands of a loop depend on one draw, and each on another one besides: in the body each counts once."""
    k1, k2, k3, k4 = jax.random.split(key, 4)
    x, y, z = flip(k1, w), flip(k2, w + A), flip(k3, w - A)
    a, b = x * y, y * z

    def body(carry, k):
        c, total = carry
        u = flip(k, w + A * a)
        return (c * u, total + jnp.exp(a * b + 0.5 * b + a) * (1.0 + u) + c), None

    (_, total), _ = lax.scan(body, (b + x, 0.0), jax.random.split(k4, 2))
    return total


@sums(operands_in_common, 5)
def operands_in_common_sums(draw, w):
    x, y, z = draw(w), draw(w + A), draw(w - A)
    a, b = x * y, y * z
    u, v = draw(w + A * a), draw(w + A * a)
    return jnp.exp(a * b + 0.5 * b + a) * (2.0 + u + v) + (b + x) * (1.0 + u)


def nested_loops(key, w):
    def inner(carry, k):
        c, total = carry
        z = flip(k, w + A * c)
        return (z, total + z * 0.7 + c), None

    def outer(carry, k):
        return lax.scan(inner, carry, jax.random.split(k, 2))[0], carry[0]

    (_, total), cs = lax.scan(outer, (0.0, 0.0), jax.random.split(key, 2))
    return total + cs.sum()


@sums(nested_loops, 4)
def nested_loops_sums(draw, w):
    c, total = 0.0, 0.0
    for step in range(4):
        total = total + (c if step % 2 == 0 else 0.0)
        z = draw(w + A * c)
        c, total = z, total + z * 0.7 + c
    return total


def one_body_twice(key, w):
    """A loop that is traced once and runs at two places, from values that depend on different draws."""
    k1, k2, k3, k4 = jax.random.split(key, 4)

    def body(c, k):
        z = flip(k, w + A * c)
        return z, (z - 0.3) ** 2 + c * 0.5

    @jax.jit
    def costs(k, start):
        return lax.scan(body, start, jax.random.split(k, 2))[1].sum()

    x, y = flip(k1, w), flip(k2, w - A)
    return costs(k3, x) + y * costs(k4, y)


@sums(one_body_twice, 6)
def one_body_twice_sums(draw, w):
    def costs(c):
        y = draw(w + A * c)
        z = draw(w + A * y)
        return (y - 0.3) ** 2 + 0.5 * c + (z - 0.3) ** 2 + 0.5 * y

    x, y = draw(w), draw(w - A)
    return costs(x) + y * costs(y)


def lanes_of_loops(key, w):
    return jnp.mean(jax.vmap(lambda k: steps_in_carry(k, w))(jax.random.split(key, 2)))


@sums(lanes_of_loops, 6)
def lanes_of_loops_sums(draw, w):
    return (steps_in_carry_sums(draw, w) + steps_in_carry_sums(draw, w)) / 2.0


def loop_of_lanes(key, w):
    def body(carry, k):
        c, total = carry
        z = jax.vmap(lambda k, c: flip(k, w + A * c))(jax.random.split(k, 2), c)
        return (z, total + (z - 0.3) ** 2), z.sum()

    (_, total), zs = lax.scan(body, (jnp.zeros(2), jnp.zeros(2)), jax.random.split(key, 2))
    return total.sum() / 3.0 + zs[0]


@sums(loop_of_lanes, 4)
def loop_of_lanes_sums(draw, w):
    first = [draw(w), draw(w)]
    second = [draw(w + A * z) for z in first]
    return sum((z - 0.3) ** 2 for z in (*first, *second)) / 3.0 + sum(first)


# ---- branches and calls ----------------------------------------------------------------------------------------------


def branches(key, w):
    k1, k2, k3 = jax.random.split(key, 3)
    b, d = flip(k1, w), flip(k3, w - A)
    c = lax.cond(b > 0.5, lambda: flip(k2, w + A), lambda: jnp.asarray(0.5))
    return c + b * 2.0 + d * 10.0


@sums(branches, 3)
def branches_sums(draw, w):
    b, d = draw(w), draw(w - A)
    return jnp.where(b > 0.5, draw(w + A), 0.5) + b * 2.0 + d * 10.0


def outputs_of_a_branch(key, w):
    """Of what comes out of a branch, each depends on its own part of what went in and of what was drawn inside."""
    k1, k2, k3, k4 = jax.random.split(key, 4)
    a, b, d = flip(k1, w), flip(k2, w - A), flip(k3, w + A)

    def drawn(a, b):
        return flip(k4, w + A * a), b * 2.0, (a - 0.3) ** 2

    x, y, z = lax.cond(d > 0.5, drawn, lambda a, b: (a * w, b - 0.3, a), a, b)
    u, v = jax.checkpoint(lambda a: (flip(jax.random.fold_in(k4, 1), w), a * 3.0 + w))(b)
    return x * 2.0 + (y - 0.3) ** 2 + z * 3.0 + u * 5.0 + v


@sums(outputs_of_a_branch, 5)
def outputs_of_a_branch_sums(draw, w):
    a, b, d = draw(w), draw(w - A), draw(w + A)
    inside = draw(w + A * a)
    taken = 2.0 * inside + (2.0 * b - 0.3) ** 2 + 3.0 * (a - 0.3) ** 2
    other = 2.0 * a * w + (b - 0.6) ** 2 + 3.0 * a
    return jnp.where(d > 0.5, taken, other) + 5.0 * draw(w) + 3.0 * b + w


def loops_in_a_branch(key, w):
    """A branch is one node with one score, whatever is inside."""
    k1, k2 = jax.random.split(key)
    b = flip(k1, w)

    def yes(b):
        def body(c, k):
            z = flip(k, w + A * c)
            return z, z * 0.7 + c * w

        c, ys = lax.scan(body, b, jax.random.split(k2, 2))
        return c, ys.sum(), b

    c, total, kept = lax.cond(b > 0.5, yes, lambda b: (b, b + 0.3, 2.0 * b + w), b)
    return c + total * 2.0 + (kept - 0.3) ** 2


@sums(loops_in_a_branch, 3)
def loops_in_a_branch_sums(draw, w):
    b = draw(w)
    y = draw(w + A * b)
    z = draw(w + A * y)
    yes = z + 2.0 * (0.7 * y + b * w + 0.7 * z + y * w) + (b - 0.3) ** 2
    return jnp.where(b > 0.5, yes, b + 2.0 * (b + 0.3) + (2.0 * b + w - 0.3) ** 2)


def jitted(key, w):
    k1, k2, k3 = jax.random.split(key, 3)

    @jax.jit
    def cost(a, b):
        return a * 3.0 + b * w + 1.0

    return jax.jit(lambda k: cost(flip(k, w), flip(k2, w + A)))(k1) + jax.checkpoint(lambda k: flip(k, w))(k3) * 0.5


@sums(jitted, 3)
def jitted_sums(draw, w):
    return draw(w) * 3.0 + draw(w + A) * w + 1.0 + draw(w) * 0.5
