"""A chain whose steps choose from finite supports, laid out: what each move weighs at each step, in one expression.

One trace of a step says what its log density adds up from, and what each term depends on: the state before, the value
that is moved to, and what is another thing at each step. Every term is then evaluated once for each combination of
what it depends on, under `vmap`, and before any loop: of a hidden Markov model the transitions once, (K, K), and the
observations (T, K).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from .._errors import DensityError
from ..core._addresses import Choices
from ..core._operations import Given
from ..core._target import Target
from ..transforms._internal import Addends, addends
from ._chain import Chain, chain_of, first, handed_on
from ._exact import AtNumbers, Joint, joint_support


class FiniteChain(NamedTuple):
    """A chain, the K joint values of one step's latents, and one step in terms of (carry, joint value, its inputs).

    Attributes:
        chain: the chain.
        joint: the joint values.
        step: the terms of a step's log density, and the leaves of the carry after it.
        states: whether the joint value changes a leaf of the carry.
        leaves: of each step the leaves of the carry before, the number of the joint value (none yet) and the inputs,
            stacked, or once where they never change; of the state, those of the first step.
        varies: whether a leaf is stacked.
    """

    chain: Chain
    joint: Joint
    step: Addends
    states: list[bool]
    leaves: list
    varies: list[bool]

    @property
    def of_index(self) -> list[bool]:
        """Whether a leaf is the number of the joint value."""
        return [i == len(self.states) for i in range(len(self.leaves))]

    @property
    def of_state(self) -> list[bool]:
        """Whether a leaf is one of the state before."""
        return [*self.states, *[False] * (len(self.leaves) - len(self.states))]

    def at(self, leaves: list, index: Any) -> list:
        """The leaves with this number for the joint value."""
        return [index if o else x for x, o in zip(leaves, self.of_index, strict=True)]

    def terms(self, *leaves: Any) -> list:
        """The terms of a step's log density."""
        return self.step.run(*leaves)[: self.step.number]

    def after(self, *leaves: Any) -> list:
        """The leaves of the state after a step."""
        return [x for x, s in zip(self.step.run(*leaves)[self.step.number :], self.states, strict=True) if s]

    def depend(self, flags: list[bool]) -> list[bool]:
        """Whether each term, then each leaf of the state after, depends on one of the leaves with a flag."""
        found = [any(flags[i] for i in depends) for depends in self.step.depends]
        return [
            *found[: self.step.number],
            *(d for d, s in zip(found[self.step.number :], self.states, strict=True) if s),
        ]

    def visit(self, *leaves: Any) -> tuple[Float[Array, ""], Choices]:
        """A step: its log density and its choices."""
        shape = jax.tree.structure((self.chain.init, 0, first(self.chain.stacked)))
        logp, _, choices = _visit(self.chain, self.joint, *jax.tree.unflatten(shape, leaves))
        return logp, choices


def _visit(chain, joint, carry, index, step):
    x, observed = step
    numbers = joint.numbers(index)
    out = chain.visit(AtNumbers(), None, Given(observed, numbers), carry, x)
    return joint.counted(out, numbers), out.retval, out.choices


def finite_chain_of(target: Target, what: str) -> FiniteChain:
    """Take a target over a scan of finite choices apart, by tracing one step."""
    chain = chain_of(target, what)
    step = first(chain.stacked)
    joint = joint_support(chain.target(chain.init, *step))
    like = jax.eval_shape(lambda: _visit(chain, joint, chain.init, 0, step)[1])
    chain = chain._replace(init=jax.tree.map(lambda x, y: x.astype(y.dtype), chain.init, like))
    traced = addends(lambda *at: _visit(chain, joint, *at)[:2], chain.init, jnp.zeros((), int), step)
    carried = jax.tree.leaves(chain.init)
    after = traced.depends[traced.number :]
    states = [len(carried) in depends for depends in after]
    if any(states[i] for depends in after for i in depends if i < len(states)):
        raise DensityError(
            f"{what}: the carry that {chain.step.name} returns depends on the state before, so the chain is "
            "not Markov in the step's own choices. Return a carry that is made of this step's choices (what does not "
            "vary with them, like a step counter or parameters, may pass through), or use `smc(n)`."
        )
    inputs = jax.tree.leaves(chain.stacked)
    fixed = [s or traced.same[traced.number + i] == i for i, s in enumerate(states)]
    none = jnp.zeros((), int)
    after_step = lambda carry, x: traced.run(*carry, none, *x)[traced.number :]  # noqa: E731
    passed = handed_on(after_step, chain.length, carried, fixed, inputs)
    varies = [*(not f for f in fixed), False, *[True] * len(inputs)]
    return FiniteChain(chain, joint, traced, states, [*passed, None, *inputs], varies)


def _lanes(fn: Callable, size: int, mapped: list[bool], outs: list[bool]) -> Callable:
    """`fn` of leaves under `vmap`; a result that is the same in all lanes comes once."""
    axes = [0 if m else None for m in mapped]
    lanes = jax.vmap(lambda _, *xs: fn(*xs), (0, *axes), [0 if o else None for o in outs], axis_size=size)
    return lambda *xs: lanes(None, *xs)


def _some(flags, values):
    return [x for x, flag in zip(values, flags, strict=True) if flag]


def _added(terms, shape):
    return reduce(add, [jnp.broadcast_to(t, shape) for t in terms]) if terms else jnp.zeros(shape)


class Later(NamedTuple):
    """The steps after the first of a chain, in leaves that have each value of the state before.

    Attributes:
        chain: the chain.
        leaves: as of the chain, with an axis of K for those of the state, behind that of the steps.
        varies: whether a leaf is stacked.
    """

    chain: FiniteChain
    leaves: list
    varies: list[bool]

    @property
    def k(self) -> int:
        """The number of joint values."""
        return self.chain.joint.total

    @property
    def length(self) -> int:
        """The number of steps."""
        return self.chain.chain.length - 1

    @property
    def moving(self) -> list[bool]:
        """Whether a term depends on the state before."""
        return self.chain.depend(self.chain.of_state)[: self.chain.step.number]

    @property
    def changing(self) -> bool:
        """Whether what the moves weigh depends on the step."""
        return any(_some(self.moving, self.chain.depend(self.varies)[: self.chain.step.number]))

    def between(self, *leaves: Any) -> list:
        """One step's log weights: of its moves (K, K), and of the values that are moved to (K,)."""
        chain, k, onto = self.chain, self.k, self.chain.depend(self.chain.of_index)[: self.chain.step.number]
        row = _lanes(chain.terms, k, chain.of_index, onto)
        terms = _lanes(row, k, chain.of_state, self.moving)(*chain.at(list(leaves), jnp.arange(k)))
        moves = [t if j else t[:, None] for t, i, j in zip(terms, self.moving, onto, strict=True) if i]
        return [_added(moves, (k, k)), _added(_some([not m for m in self.moving], terms), (k,))]

    def column(self, index: Any, *leaves: Any) -> Float[Array, " k"]:
        """One step's log weights of the moves onto one joint value."""
        terms = _lanes(self.chain.terms, self.k, self.chain.of_state, self.moving)
        return _added(_some(self.moving, terms(*self.chain.at(list(leaves), index))), (self.k,))

    def weights(self) -> list:
        """Those of all steps: of the moves, once where they never change, and of the values."""
        return _lanes(self.between, self.length, self.varies, [self.changing, True])(*self.leaves)

    @property
    def stacked(self) -> list:
        """The leaves that are stacked, for a loop over the steps."""
        return _some(self.varies, self.leaves)

    def whole(self, stacked: list) -> list:
        """All leaves of one step, from those that are stacked."""
        return _put(self.varies, stacked, self.leaves)


def onto_first(chain: FiniteChain) -> Float[Array, " k"]:
    """The log weights of the first step onto all joint values."""
    k, onto = chain.joint.total, chain.depend(chain.of_index)[: chain.step.number]
    leaves = chain.at([x[0] if v else x for x, v in zip(chain.leaves, chain.varies, strict=True)], jnp.arange(k))
    return _added(_lanes(chain.terms, k, chain.of_index, onto)(*leaves), (k,))


def later(chain: FiniteChain) -> Later:
    """The steps after the first, with each value of the state before."""
    changed = chain.depend(chain.varies)[chain.step.number :]
    after = _lanes(chain.after, chain.joint.total, chain.of_index, [True] * len(changed))
    after = _lanes(after, chain.chain.length - 1, chain.varies, changed)
    states = after(*chain.at(_rows(chain, slice(None, -1)), jnp.arange(chain.joint.total)))
    rest = _rows(chain, slice(1, None))
    still = [v and _unchanging(x) for x, v in zip(chain.leaves, chain.varies, strict=True)]
    rest = [x[0] if f else x for x, f in zip(rest, still, strict=True)]
    varies = [v and not f for v, f in zip(chain.varies, still, strict=True)]
    return Later(chain, _put(chain.of_state, states, rest), _put(chain.of_state, changed, varies))


def path_at(chain: FiniteChain, indices: Any) -> tuple[Float[Array, " t"], Choices]:
    """The log density and the choices of each step of the path with these joint values."""
    moved = [v or o for v, o in zip(chain.varies, chain.of_index, strict=True)]
    earlier = chain.at(_rows(chain, slice(None, -1)), indices[:-1])
    after = _lanes(chain.after, chain.chain.length - 1, moved, [True] * sum(chain.states))(*earlier)
    starts = _some(chain.of_state, chain.leaves)
    before = [jnp.concatenate([x[None], y]) for x, y in zip(starts, after, strict=True)]
    leaves = _put(chain.of_state, before, chain.at(chain.leaves, indices))
    axes = [0 if m or s else None for m, s in zip(moved, chain.of_state, strict=True)]
    return jax.vmap(chain.visit, axes)(*leaves)


def _rows(chain, rows):
    return [x[rows] if v else x for x, v in zip(chain.leaves, chain.varies, strict=True)]


def _put(flags, values, others):
    values = iter(values)
    return [next(values) if flag else x for flag, x in zip(flags, others, strict=True)]


def _unchanging(x):
    """Whether the entries after the first are known to be the same, as those of a flag of the first step are."""
    if isinstance(x, jax.core.Tracer) or not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool) or len(x) < 2:
        return False
    x = np.asarray(x)
    return bool((x[2:] == x[1:2]).all())
