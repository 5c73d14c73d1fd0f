"""`expectation`: a program that samples becomes a function whose derivative is an unbiased gradient estimate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

import jax
from jax import numpy as jnp

from ._arguments import flag, objective_function, whole
from ._errors import ObjectiveError, RandomKeyError
from ._jax import lane_shape, make_primitive, vmapped
from ._pytree import is_inexact
from ._samples_in import samples
from .analysis._discontinuities import warn_of_jumps
from .analysis._key_reuse import refuse_reuse
from .estimate._credit_plan import credit_plan
from .estimate._estimate import Estimating, estimate
from .estimate._stated import check_stated
from .forks._by_importance import ByImportance
from .forks._replay import Options, Replaying
from .program._interpreter import run
from .program._noise_first import noise_first
from .program._once import once
from .program._plan import plan_of
from .program._site import check_key
from .program._trace_call import trace_call


class Program(NamedTuple):
    """A traced objective: the static parameter of the `expectation` primitive."""

    jaxpr: Any
    options: Options
    key: int

    def values(self, *operands) -> list:
        """Run it for values."""
        plan = plan_of(self.jaxpr)
        return run(plan, operands, Replaying(self.options, noise_first(self.jaxpr, plan, operands)))[0]

    def estimates(self, *operands) -> list:
        """Run it for values with the derivatives of their expectations."""
        check_stated(self.jaxpr, self.options.objectives)
        jaxpr = once(self.jaxpr)
        witness = [x for x in operands if is_inexact(x)]
        credit = credit_plan(jaxpr, self.options.objectives) if self.options.credit else None
        plan = plan_of(jaxpr) if credit is None else credit
        noise = noise_first(jaxpr, plan, operands)
        mode = Estimating(self.options, operands[self.key], witness, credit=credit, noise=noise)
        return estimate(plan, dict(zip(plan.inputs, operands, strict=True)), 0, mode)


def _run(*operands, program: Program, lanes):
    return vmapped(program.values, lanes)(*operands)


def _shapes(avals, lanes, *, program: Program):
    front = lane_shape(lanes)
    return [((*front, *v.aval.shape), v.aval.dtype) for v in program.jaxpr.outvars]


def _jvp(primals, tangents, at, *, program: Program, lanes):
    varied = [x is None for x in at(*[None] * len(primals))]
    warn_of_jumps(program.jaxpr, varied, program.options.objectives)
    run = vmapped(program.estimates, lanes)
    return jax.jvp(lambda *xs: run(*at(*xs)), tuple(primals), tuple(tangents))


def _check_lane(mapped, *, program: Program):
    if not mapped[program.key] and samples(program.jaxpr):
        raise RandomKeyError(
            "An `expectation` is under a `vmap` that maps its arguments but not its key, so every lane would draw with "
            "the same randomness. Map one key per lane: `jax.vmap(lambda k, x: f(k, params, x))"
            "(jax.random.split(key, len(xs)), xs)`."
        )


P = ParamSpec("P")
R = TypeVar("R")

bind = make_primitive("expectation", run=_run, shapes=_shapes, jvp=_jvp, check_lane=_check_lane)


@overload
def expectation(
    fun: Callable[P, R],
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    forks: int | ByImportance | None = None,
    credit: bool = True,
) -> Callable[P, R]: ...
@overload
def expectation(
    fun: None = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    forks: int | ByImportance | None = None,
    credit: bool = True,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def expectation(
    fun: Callable | None = None,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    forks: int | ByImportance | None = None,
    credit: bool = True,
) -> Callable:
    """Turn a program that samples into a function whose derivative is that of its expectation.

    `g = expectation(f)` has the signature and, in distribution, the value of `f`: an unbiased estimate of E[f(key,
    *args)]. Its JAX derivative is an unbiased estimate of the derivative of that expectation, by the estimator of each
    sample site. `g` is an ordinary JAX function: `jit`, `vmap`, `grad`, `jvp`, `jacrev`, `scan`, ... apply to it, and
    so do sharded arrays and `shard_map`: give every device keys of its own. With `check_vma=True`, its default, the
    derivative in arguments that are the same on all devices comes summed over them, as that of any function does.

    Args:
        fun: `f(key, *args)`, returning a float array or a pytree of them, in any units. Arguments are pytrees; their
            leaves that are not arrays are static.
        has_aux: `f` returns `(objective, auxiliary)`; auxiliary outputs carry no derivative.
        chunk_size: forking estimators (mvd, local_expectation) run at most this many alternatives at a time; None
            runs all in one `vmap`. Bounds memory, not work.
        forks: run only this many alternatives, drawn at random and weighted. Unbiased, at a cost that does not grow
            with their number. `by_importance(k)` draws them by how much their coefficients move.
        credit: a score term multiplies only the part of the objective that depends on its draw, read off the program's
            data flow. Unbiased either way; False multiplies all of it, with more variance.

    Raises:
        ObjectiveError: an output is not floating point; `fun` is no function that runs to its end, or a generative
            function, which has no value of its own; an option out of its range.
        RandomKeyError: the first argument is not one typed key; two sites, or the steps of a loop, draw with one
            key.
        NoRuleError: a sample is inside an operation that has no rule; it is named.

    Warns:
        DiscontinuityWarning: a derivative is taken, and a reparameterised value reaches an operation that is not
            continuous (a comparison that selects, rounding, a branch), so that the path derivative is biased.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample
        >>> @expectation
        ... def f(key, theta):
        ...     return sample(key, dist.Normal(theta, 1.0)) ** 2
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 3.0).shape
        ()

    Source: Lew, Huot, Staton and Mansinghka, ADEV: Sound Automatic Differentiation of Expected Values of Probabilistic
    Programs, POPL 2023; Becker et al., Probabilistic Programming with Programmable Variational Inference, PLDI 2024.
    """
    if fun is None:
        return functools.partial(expectation, has_aux=has_aux, chunk_size=chunk_size, forks=forks, credit=credit)
    objective_function("expectation()", fun)
    options = _options(chunk_size, forks, credit=credit)
    flag("expectation", "has_aux", has_aux, ObjectiveError)

    @functools.wraps(fun)
    def estimate_of(key, *args, **kwargs):
        check_key(key, f"expectation({getattr(fun, '__name__', fun)})")
        traced = trace_call(fun, (key, *args), kwargs)
        refuse_reuse(traced.jaxpr)
        objectives = _count_objectives(traced.out, has_aux=has_aux)
        program = Program(traced.jaxpr, options(objectives), traced.closed)
        leaves = bind(*traced.operands, program=program)
        return jax.tree.unflatten(jax.tree.structure(traced.out), leaves)

    return estimate_of


def _options(chunk_size, forks, *, credit) -> Callable[[int], Options]:
    """The options, checked, but for the number of objectives."""
    chunk_size, forks = (
        given
        if given is None or isinstance(given, ByImportance) and name == "forks"
        else whole("expectation", name, given, ObjectiveError)
        for name, given in (("chunk_size", chunk_size), ("forks", forks))
    )
    credit = flag("expectation", "credit", credit, ObjectiveError)
    return lambda objectives: Options(objectives, chunk_size, forks, credit)


def _count_objectives(out, *, has_aux):
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise ObjectiveError("With has_aux=True the function must return a pair (objective, auxiliary).")
    leaves, _ = jax.tree.flatten_with_path(out[0] if has_aux else out)
    if not leaves:
        raise ObjectiveError("The objective returned nothing. Return a float array, or a pytree of them.")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ObjectiveError(
                f"The objective{where} has type {leaf.dtype}{list(leaf.shape)}, which has no expectation to "
                "differentiate. Return a float (`.astype(float)`), or return it as auxiliary with has_aux=True."
            )
    return len(leaves)
