"""Exact forward filtering of a discrete Markov chain: Z by a recursion over its states, in O(T K^2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import DensityError
from ..core._addresses import Choices
from ..core._operations import Given
from ..core._target import Target
from ..transforms import RandomKeyError
from ._base import Algorithm, Estimate, Retained, choose, split
from ._chain import Chain, chain_of, first, later
from ._exact import AtNumbers, Joint, joint_support


class Filter(NamedTuple):
    """A chain with the K joint values of one step's latents; `states` says which leaves of the carry they change."""

    chain: Chain
    joint: Joint
    states: list

    def at(self, carry: Any, index: Any, step: tuple) -> tuple[Float[Array, ""], Any, Choices]:
        """A step at joint value `index`: its log density, the next carry, its choices."""
        x, observed = step
        numbers = self.joint.numbers(index)
        out = self.chain.visit(AtNumbers(), None, Given(observed, numbers), carry, x)
        return self.joint.counted(out, numbers), out.retval, out.choices

    def onto(self, carry: Any, step: tuple) -> tuple[Float[Array, " k"], Any]:
        """A step onto all values, from one carry: log densities (K,), and the carries after them."""
        return jax.vmap(lambda i: self.at(carry, i, step)[:2], out_axes=(0, self.axes))(jnp.arange(self.joint.total))

    def between(self, carries: Any, step: tuple) -> tuple[Float[Array, " k k"], Any]:
        """A step from each carry onto all values: log densities (K, K), and the carries after them."""
        return jax.vmap(lambda c: self.onto(c, step), in_axes=(self.axes,), out_axes=(0, None))(carries)

    @property
    def axes(self) -> Any:
        """The axis of each leaf of the carries along which the values lie."""
        return self._like([0 if s else None for s in self.states])

    def _like(self, entries: list) -> Any:
        return jax.tree.unflatten(jax.tree.structure(self.chain.init), entries)

    def carry(self, carries: Any, index: Any) -> Any:
        """The carry after one value."""
        return jax.tree.map(lambda s, x: x[index] if s else x, self._like(self.states), carries)


def _varies(fn: Callable, n: int) -> list[bool]:
    """Which leaves of `fn(i)` depend on i, by data flow: those that `vmap` maps."""

    def mapped(leaf):
        try:
            jax.eval_shape(jax.vmap(lambda i: jax.tree.leaves(fn(i))[leaf], out_axes=None), jnp.arange(n))
        except ValueError:
            return True
        return False

    return [mapped(i) for i in range(len(jax.tree.leaves(jax.eval_shape(fn, 0))))]


def _filter_of(target: Target) -> Filter:
    chain = chain_of(target, "forward_filter")
    step = first(chain.stacked)
    joint = joint_support(chain.target(chain.init, *step))
    plain = Filter(chain, joint, [])
    out = Filter(chain, joint, _varies(lambda i: plain.at(chain.init, i, step)[1], joint.total))
    carries = jax.eval_shape(lambda: out.onto(chain.init, step)[1])
    carries = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carries)
    if any(_varies(lambda k: out.onto(out.carry(carries, k), step)[1], joint.total)):
        raise DensityError(
            f"forward_filter: the carry that {chain.step.name} returns depends on the state before, so the chain is "
            "not Markov in the step's own choices. Return a carry that is made of this step's choices (what does not "
            "vary with them, like a step counter or parameters, may pass through), or use `smc(n)`."
        )
    return out


class ForwardFilter(Algorithm):
    """See `forward_filter`."""

    indices: ClassVar[tuple[str, ...]] = ("index",)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The recursion; a draw samples the states backwards."""
        try:
            chain = _filter_of(target)
            log_z, alphas, carries = _forward(chain)
        except RandomKeyError as error:
            raise DensityError(
                f"forward_filter: a density inside {target.function.name} is itself an estimate, and this sum is exact."
                f" Use `smc(n)`. ({error})"
            ) from error
        return Estimate(log_z, lambda key: _backward(chain, alphas, carries, key, target))

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The same recursion: it is exact, so there is nothing to retain."""
        return self.estimate(key, target).log_z


def _forward(chain: Filter) -> tuple[Float[Array, ""], Float[Array, " steps k"], Any]:
    """The log of Z, and for each step the log probabilities of the states given what was observed so far."""
    steps = chain.chain.stacked

    def normalized(joint):
        total = jax.nn.logsumexp(joint, axis=0)
        return joint - total, total

    def body(state, step):
        alpha, carries = state
        logp, after = chain.between(carries, step)
        alpha, total = normalized(jax.nn.logsumexp(alpha[:, None] + logp, axis=0))
        return (alpha, after), (alpha, total, carries)

    logp, after = chain.onto(chain.chain.init, first(steps))
    alpha, total = normalized(logp)
    _, (alphas, totals, carries) = lax.scan(body, (alpha, after), later(steps), chain.chain.length - 1)
    return total + totals.sum(), jnp.concatenate([alpha[None], alphas]), carries


def _backward(chain: Filter, alphas: Any, carries: Any, key: Any, target: Target) -> tuple[Choices, Float[Array, ""]]:
    """Draw the states given all that was observed, the last one first, and return their choices and log gamma."""
    keys = split(key, chain.chain.length, target, "forward_filter")
    steps = chain.chain.stacked

    def body(after, at):
        key, alpha, carries, step = at
        onto = jax.vmap(lambda c: chain.at(c, after, step)[0], in_axes=(chain.axes,))(carries)
        index = choose(key, alpha + onto, target)
        logp, _, choices = chain.at(chain.carry(carries, index), after, step)
        return index, (logp, choices)

    index = choose(keys[0], alphas[-1], target)
    if chain.chain.length > 1:
        index, (logps, choices) = lax.scan(body, index, (keys[1:], alphas[:-1], carries, later(steps)), reverse=True)
    logp, _, start = chain.at(chain.chain.init, index, first(steps))
    if chain.chain.length == 1:
        return target.without_observed(jax.tree.map(lambda x: x[None], start)), logp
    choices = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, choices)
    return target.without_observed(choices), logp + logps.sum()


def forward_filter() -> ForwardFilter:
    """Exact forward filtering of a hidden Markov model, a `scan` whose steps choose from finite supports.

    With K joint values of a step's choices and T steps, alpha_t(j) = sum_k alpha_{t-1}(k) p(j, x_t | k), in O(T K^2)
    and one `lax.scan`. The carry of the scan must be a function of the step's own choices, apart from what does not
    vary with them. The density is exact and needs no key; `normalize` draws the whole path from the exact posterior,
    backwards, each state one sample at the address "index".

    Returns:
        An algorithm for `marginal(step.scan(), keep, ...)` and `normalize(Target(step.scan(), ...), ...)`.

    Raises:
        DensityError: on use, where the program is not a scan, its carry is not Markov, or a choice is not finite.

    Source: Rabiner, A Tutorial on Hidden Markov Models, 1989; Scott, Bayesian Methods for Hidden Markov Models, 2002.

    Example:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(state, x):
        ...     z = tg.sample("z", tg.dist.Bernoulli(probs=jnp.where(state == 1, 0.9, 0.2)))
        ...     tg.sample("y", tg.dist.Normal(2.0 * z, 1.0))
        ...     return z, None
        >>> chain = tg.marginal(step.scan(length=3), "y", tg.forward_filter())
        >>> logp, _ = chain.assess({"y": jnp.array([0.0, 2.0, 2.0])}, 0)
        >>> f"{float(logp):.3f}"
        '-4.390'
    """
    return ForwardFilter()
