"""The generative function interface: one class, seven operations, and the combinators that keep it.

A generative function denotes a distribution over choices (nested dicts with string addresses) and a return value. Let
p(t; args) be the density of choices t. Every operation is one visit of the program (see `_operations`).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jax import numpy as jnp

from ._addresses import Choices, Path, as_arrays, as_selection, check_known, difference, show
from ._combinators import Combinator, Masked, Repeat, Scan, Vmap, visit_branch
from ._errors import AddressError, ChoiceError, DensityError
from ._operations import (
    Assess,
    Generate,
    Given,
    Operation,
    Outcome,
    Project,
    Regenerate,
    Simulate,
    Update,
)
from ._rules import Overrides, isolated, override
from .transforms import RandomKeyError, check_key


class Call(eqx.Module):
    """A generative function with its arguments, ready to be sampled at an address."""

    function: GenerativeFunction
    args: tuple
    kwargs: dict


class Trace(eqx.Module):
    """One run of a generative function: what it was given, what it chose, what it returned, and how likely that was.

    Attributes:
        function: the generative function.
        args: its arguments.
        kwargs: its keyword arguments.
        choices: the choices, a nested dict of arrays.
        retval: the return value.
        logp: log p(choices; args), a float scalar in nats; an estimate where the function's density is one.

    A trace is a pytree, so it goes through `jit`, `vmap` and `tree_map`; what is no array or number among the arguments
    (an activation function inside a network, say) is static in it.
    """

    choices: Choices
    logp: jax.Array
    _rest: tuple

    def __init__(self, function: GenerativeFunction, args: tuple, kwargs: dict, choices: Choices, retval: Any, logp):
        self.choices = choices
        self.logp = logp
        self._rest = _hold((function, args, kwargs, retval))

    @property
    def function(self) -> GenerativeFunction:
        """The generative function."""
        return _release(self._rest[0])

    @property
    def args(self) -> tuple:
        """Its arguments."""
        return _release(self._rest[1])

    @property
    def kwargs(self) -> dict:
        """Its keyword arguments."""
        return _release(self._rest[2])

    @property
    def retval(self) -> Any:
        """The return value."""
        return _release(self._rest[3])

    def __repr__(self):
        name = self._rest[0].name
        return f"Trace({name}, choices={eqx.tree_pformat(self.choices)}, logp={eqx.tree_pformat(self.logp)})"


class _Held(eqx.Module):
    """A leaf that JAX cannot take, made static."""

    value: Any = eqx.field(static=True)


def _hold(tree):
    return jax.tree.map(lambda x: x if eqx.is_array_like(x) else _Held(x), tree)


def _release(tree):
    return jax.tree.map(lambda x: x.value if _is_held(x) else x, tree, is_leaf=_is_held)


def _is_held(x):
    return isinstance(x, _Held)


class GenerativeFunction(eqx.Module):
    """A distribution over choices and a return value. Make one with `gen`; call it to sample it at an address."""

    @abc.abstractmethod
    def visit(self, operation: Operation, key: Any, given: Given, path: Path, args: tuple, kwargs: dict) -> Outcome:
        """Run the program once under an operation: the one method of a generative function."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    def __call__(self, *args, **kwargs) -> Call:
        """The function with its arguments, for `sample(address, f(args))`."""
        return Call(self, args, kwargs)

    # ---- operations ----

    def simulate(self, key: jax.Array, *args, **kwargs) -> Trace:
        """Draw choices t ~ p(.; args).

        Args:
            key: one typed key.
            *args: arguments, any pytrees.
            **kwargs: keyword arguments.

        Returns:
            A `Trace`.

        Example:
            >>> import jax, tracegrad as tg
            >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
            >>> tr = coin.simulate(jax.random.key(0), 0.5)
            >>> sorted(tr.choices), tr.logp.shape
            (['heads'], ())
        """
        check_key(key, f"{self.name}.simulate")
        return self._trace(self._visit(Simulate(), key, None, None, args, kwargs, "choices"), args, kwargs)

    def propose(self, key: jax.Array, *args, **kwargs) -> tuple[Choices, jax.Array, Any]:
        """Draw choices t ~ p(.; args), and return (t, log p(t; args), retval)."""
        tr = self.simulate(key, *args, **kwargs)
        return tr.choices, tr.logp, tr.retval

    def assess(self, choices: Mapping, *args, key: jax.Array | None = None, **kwargs) -> tuple[jax.Array, Any]:
        """The log density of full choices, log p(choices; args), and the return value.

        Args:
            choices: a value for every sampled address.
            *args: arguments.
            key: needed where the density is itself estimated; then E[exp(logp)] = p(choices; args).
            **kwargs: keyword arguments.

        Returns:
            (logp, retval): a float scalar in nats, and what the program returns at these choices.

        Raises:
            AddressError: an address is missing or unknown.
            ChoiceError: a value has the wrong shape, type or support.
        """
        out = self._visit(Assess(), key, choices, None, args, kwargs, "choices")
        return out.logp, out.retval

    def generate(self, key: jax.Array, constraints: Mapping, *args, **kwargs) -> tuple[Trace, jax.Array]:
        """Draw a trace that agrees with constraints; the rest is drawn as the program says.

        Returns:
            (trace, log_weight): the weight is p(t; args) / q(t), with q the density of what was drawn, so the log
            density of the constrained sites; its exponential averages to the marginal likelihood of the constraints.
        """
        check_key(key, f"{self.name}.generate")
        out = self._visit(Generate(), key, constraints, None, args, kwargs, "constraints")
        return self._trace(out, args, kwargs), out.weight

    def update(self, key: jax.Array, trace: Trace, constraints: Mapping, *args, **kwargs):
        """Change choices and arguments of a trace, keeping what is neither changed nor gone.

        Args:
            key: one typed key, for choices at addresses that the old trace lacks.
            trace: a trace of this function.
            constraints: new values at some addresses.
            *args: new arguments.
            **kwargs: new keyword arguments.

        Returns:
            (trace, log_weight, discarded): the weight is p(t'; args') / (p(t; args) q(fresh)); discarded are the old
            choices that were replaced or are gone.
        """
        check_key(key, f"{self.name}.update")
        out = self._visit(Update(), key, constraints, trace.choices, args, kwargs, "constraints")
        gone = difference(trace.choices, out.choices)
        return self._trace(out, args, kwargs), out.weight - trace.logp, {**out.discarded, **gone}

    def regenerate(self, key: jax.Array, trace: Trace, selection: Any, *args, **kwargs):
        """Draw the selected choices of a trace again, as the program says, keeping the rest.

        Args:
            key: one typed key.
            trace: a trace of this function.
            selection: a `select(...)`, or a pattern.
            *args: new arguments.
            **kwargs: new keyword arguments.

        Returns:
            (trace, log_weight, discarded): the weight is p(t'; args') q(old selected) / (p(t; args) q(new selected)),
            so what the kept choices gained; discarded are the old choices that were replaced or are gone.

        Raises:
            DensityError: a density among the kept choices is an estimate.
        """
        check_key(key, f"{self.name}.regenerate")
        selection = as_selection(selection)
        out = self._visit(Regenerate(selection), key, None, trace.choices, args, kwargs, "the trace")
        gone = difference(trace.choices, out.choices)
        try:
            kept = self.project(trace, ~selection)
        except RandomKeyError as error:
            raise DensityError(
                f"{self.name}.regenerate: a density among the choices that are kept is itself an estimate, and the "
                "trace holds one of its whole density, none of that part. Select those choices too, or draw new values "
                f"and write `update(key, trace, values, ...)`, which weighs by the trace's own estimate. ({error})"
            ) from error
        return self._trace(out, args, kwargs), out.weight - kept, {**out.discarded, **gone}

    def project(self, trace: Trace, selection: Any, *, key: jax.Array | None = None) -> jax.Array:
        """The log density of the selected choices of a trace, each given what came before it: a scalar in nats.

        With a key, densities among them may be estimates; then the exponential's expectation is the density.
        """
        operation = Project(as_selection(selection))
        return self._visit(operation, key, trace.choices, None, trace.args, trace.kwargs, "the trace").weight

    def _visit(self, operation, key, constraints, previous, args, kwargs, what):
        if constraints is not None and not isinstance(constraints, Mapping):
            raise AddressError(
                f"{what} for {self.name} must be a dict from addresses to values, and got "
                f"{type(constraints).__name__}. Write {{'z': value}}."
            )
        if key is not None:
            check_key(key, self.name)
        given = Given(None if constraints is None else as_arrays(constraints), previous)
        with isolated():
            out = self.visit(operation, key, given, (), args, kwargs)
        check_known(constraints or {}, out.choices, self.name, what)
        return out

    def _trace(self, out, args, kwargs):
        return Trace(self, args, kwargs, out.choices, out.retval, out.logp)

    # ---- combinators ----

    def vmap(self, in_axes: Any = 0, *, axis_size: int | None = None) -> GenerativeFunction:
        """Independent lanes under `jax.vmap`; choices are stacked along a leading axis.

        Args:
            in_axes: as for `jax.vmap`, over the positional arguments.
            axis_size: the number of lanes, where no argument is mapped.
        """
        return Combined(self, Vmap(in_axes, axis_size))

    def scan(self, length: int | None = None, *, reverse: bool = False, unroll: int = 1) -> GenerativeFunction:
        """A loop `f(carry, x) -> (carry, y)` as in `jax.lax.scan`, called as `f.scan()(init, xs)`.

        Choices are stacked along a leading axis, one entry for each step. An initial carry of a narrower type than
        the step returns (a bool for an integer, say) is promoted.
        """
        return Combined(self, Scan(length, reverse, unroll))

    def repeat(self, n: int) -> GenerativeFunction:
        """`n` independent copies with the same arguments; choices are stacked along a leading axis."""
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise AddressError(f"{self.name}.repeat(n) takes the number of copies, an int of 0 or more, and got {n!r}.")
        return Combined(self, Repeat(n))

    def mask(self) -> GenerativeFunction:
        """The function with a flag as its first argument; where it is false the choices have no density.

        The choices and the return value are there either way; use them only where the flag is true.
        """
        return Combined(self, Masked())

    def with_estimators(self, estimators: Mapping) -> GenerativeFunction:
        """The same program with other gradient estimators, chosen by address.

        Args:
            estimators: from address patterns ('z', 'steps/z', ('steps', 'z'), '*', '**/z') to estimators. The most
                specific pattern wins, and a choice from further outside wins over one from inside.

        Raises:
            AddressError: a pattern that matches no sample.

        Example:
            >>> import tracegrad as tg
            >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
            >>> better = coin.with_estimators({"heads": tg.mvd()})
        """
        return Overridden(self, Overrides(estimators))


class Combined(GenerativeFunction):
    """A generative function under a combinator."""

    function: GenerativeFunction
    combinator: Combinator

    @property
    def name(self) -> str:
        """The name of what is combined."""
        return f"{self.function.name}.{type(self.combinator).__name__.lower()}"

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit through the combinator."""
        if kwargs:
            raise AddressError(f"{self.name} takes positional arguments only, and got {sorted(kwargs)}.")
        return self.combinator.visit(self.function.visit, operation, key, given, path, args)


class Overridden(GenerativeFunction):
    """A generative function with estimators chosen from outside."""

    function: GenerativeFunction
    overrides: Overrides

    @property
    def name(self) -> str:
        """The name of what is overridden."""
        return self.function.name

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the overrides in force."""
        with override(self.overrides, path) as rules:
            out = self.function.visit(operation, key, given, path, args, kwargs)
            rules.check_used(self.name, out.choices)
            return out


class Switch(GenerativeFunction):
    """One of several generative functions, by an index at run time."""

    index: Any
    branches: tuple[GenerativeFunction, ...]

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit the branch that the index says."""
        if kwargs:
            raise AddressError(f"A branch at {show(path)} takes positional arguments only, and got {sorted(kwargs)}.")
        index = jnp.asarray(self.index)
        if index.shape != () or not jnp.issubdtype(index.dtype, jnp.integer):
            raise ChoiceError(
                f"The branch at {show(path)} is chosen by one integer (or, in `cond`, one boolean), and got "
                f"{index.dtype}{list(index.shape)}. For a choice in each lane, put the branch inside a `vmap`."
            )
        return visit_branch(index, [b.visit for b in self.branches], operation, key, given, path, args)


def switch(index: Any, *branches: GenerativeFunction) -> GenerativeFunction:
    """Choose one of several generative functions by an index, as in `sample("s", tg.switch(i, f, g)(x))`.

    Args:
        index: an integer scalar, clamped to the branches.
        *branches: generative functions of the same arguments, whose return values have the same structure.

    Returns:
        A generative function. Its choices are the union over the branches, zeros at the addresses of those not taken.

    Example:
        >>> import jax, tracegrad as tg
        >>> a = tg.gen(lambda: tg.sample("x", tg.dist.Normal(0.0, 1.0)))
        >>> b = tg.gen(lambda: tg.sample("y", tg.dist.Normal(5.0, 1.0)))
        >>> sorted(tg.switch(1, a, b).simulate(jax.random.key(0)).choices)
        ['x', 'y']
    """
    return Switch(index, _functions("switch", branches))


def _functions(what: str, branches: tuple) -> tuple:
    wrong = [type(b).__name__ for b in branches if not isinstance(b, GenerativeFunction)]
    if wrong or not branches:
        raise AddressError(
            f"{what} takes generative functions, and got {', '.join(wrong) or 'none'}. Their arguments come after it: "
            "`sample('s', switch(i, f, g)(args))`, `sample('c', cond(p, f, g)(args))`."
        )
    return branches


def cond(predicate: Any, true: GenerativeFunction, false: GenerativeFunction) -> GenerativeFunction:
    """Choose one of two generative functions by a predicate; see `switch`.

    Example:
        >>> import jax, tracegrad as tg
        >>> wide = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 9.0)))
        >>> narrow = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 1.0)))
        >>> sorted(tg.cond(True, wide, narrow).simulate(jax.random.key(0), 2.0).choices)
        ['x']
    """
    return Switch(jnp.where(predicate, 1, 0), _functions("cond", (false, true)))
