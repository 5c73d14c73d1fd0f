"""`gen` and `sample`: a Python function as a generative function.

A visit runs the function with a frame on a context variable (`_frame`); `sample` finds the frame, which asks the
operation what to do.
"""

from __future__ import annotations

import functools
import importlib
import operator
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, Concatenate, overload

import equinox as eqx
import jax
from jax import numpy as jnp
from typing_extensions import ParamSpec

from .._errors import AddressError, ChoiceError
from ..transforms import Estimator
from ..transforms._internal import function as check_function
from ..transforms._internal import suspended
from ._docstrings import shows_wrapped
from ._frame import Frame, running
from ._generative import Around, Call, GenerativeFunction
from ._interface import P
from ._operations import Outcome
from ._refused_distributions import refused_distribution
from ._trace import R

Q = ParamSpec("Q")
"""The parameters of a method after its first, to a type checker."""


@shows_wrapped
class Function(GenerativeFunction[P, R]):
    """A Python function as a generative function; see `gen`."""

    function: Callable[P, R] = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", repr(self.function))

    @property
    def origin(self) -> Any:
        """The code of the function; of a partial one that of the function beneath, of an object its class."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return getattr(getattr(function, "__func__", function), "__code__", type(function))

    def visit(self, operation, key, given, path, args, kwargs):
        """Run the function with a frame of its own."""
        frame = Frame(self.name, operation, key, given, path)
        outermost, token = running.get() is None, running.set(frame)
        try:
            retval = self.function(*args, **kwargs)
        except RecursionError as error:
            deep = _too_deep(self.name, error) if outermost else None
            if deep is None:
                raise
            raise deep from None
        except jax.errors.ConcretizationTypeError as error:
            raise _asked_for(self.name, error) from error
        except Exception as error:
            refused = refused_distribution(error, self.name, path, frame.choices)
            if refused is None:
                raise
            raise refused from error
        finally:
            running.reset(token)
        _check_run(self.name, retval)
        logp, weight = _sum(frame.logps), _sum(frame.weights)
        return Outcome(retval, frame.choices, logp, weight, frame.discarded, frame.records)

    @property
    def __wrapped__(self) -> Callable[P, R]:
        """The function: `inspect` and editors follow it to its signature and its source."""
        return self.function

    def inline(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function as a part of the calling one: its addresses become the caller's own.

        Returns:
            What the function returns.
        """
        if running.get() is None:
            raise AddressError(f"{self.name}.inline(...) was called outside a generative function.")
        return self.function(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Function[P, R]: ...
    @overload
    def __get__(self: Function[Concatenate[Any, Q], R], instance: object, owner: Any = None) -> Method[Q, R]: ...
    def __get__(self, instance, owner=None):
        return self if instance is None else Method(self, instance)

    def __reduce__(self):
        """By name where a module has this one under the name of its function; else with its function."""
        module, name = (str(getattr(self.function, key, "")) for key in ("__module__", "__qualname__"))
        importable = module in sys.modules and module != "__main__"
        if importable and getattr(_find(module, name), "function", None) is self.function:
            return _find, (module, name)
        return Function, (self.function,)


def _find(module: str, name: str) -> Any:
    """What a module has under a dotted name; None where it has nothing."""
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except AttributeError:
        return None


@shows_wrapped
class Method(Around[P, R]):
    """A generative function that was defined as a method, with its instance."""

    function: Any  # a `Function`, which a type checker would take for a method of this class
    instance: Any

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the instance in front."""
        return self.function.visit(operation, key, given, path, (self.instance, *args), kwargs)

    @property
    def __wrapped__(self) -> Callable[P, R]:
        """The method of the instance, for `inspect` and editors."""
        return types.MethodType(self.function.function, self.instance)

    def inline(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the method as a part of the calling function; see `Function.inline`."""
        return self.function.inline(self.instance, *args, **kwargs)


def _check_run(name, retval):
    """Refuse what was returned without having run, and a call that was not sampled: the trace would lack them."""
    word = suspended(retval)
    if word:
        raise AddressError(
            f"{name} returned {word}, so nothing in it has run. Make it a function that returns, without `yield` and "
            "`async`."
        )
    if isinstance(retval, Call):
        raise AddressError(
            f"{name} returned {retval.function.name}(...), which it did not sample. Write "
            f"`return sample(address, {retval.function.name}(...))`, or `{retval.function.name}.inline(...)`."
        )


def _asked_for(name, error):
    """The error for a value that Python asked for, and that is only known when the program runs."""
    text = (
        f"{name}: the value of a draw or an argument was asked for (by `if`, `while`, `and`, `int(...)`, `range(...)`, "
        "an index of a list, ...) where it is traced, by `jit`, `vmap`, `grad` or an objective. For a choice of two "
        "programs write `sample(address, cond(p, f, g)(x))`, for a choice of two values `jnp.where(p, x, y)`, for a "
        f"loop `f.while_loop(...)` or `f.scan()`. ({str(error).splitlines()[0]})"
    )
    return ChoiceError(text)


DEEP = 20
"""Nested calls from which on it is they, and not a recursion of the user's, that use up Python's stack."""


def _too_deep(name, error):
    """The text for calls nested deeper than Python's stack; None where it is not they that fill it."""
    frames, visit = (frame for frame, _ in traceback.walk_tb(error.__traceback__)), Function.visit.__code__
    depth = len({frame for frame in frames if frame.f_code is visit})
    if depth < DEEP:
        return None
    return AddressError(
        f"{name}: calls of generative functions are nested {depth} deep, and Python's stack is used up. Where each "
        "call does the same, make it a loop: `sample('steps', step.scan(n)(init))`, or `.repeat(n)` where the copies "
        "do not depend on each other; or raise `sys.setrecursionlimit`."
    )


def _sum(terms):
    return sum(terms[1:], terms[0]) if terms else jnp.zeros((), float)


@overload
def gen(function: GenerativeFunction[P, R]) -> GenerativeFunction[P, R]: ...  # type: ignore[overload-overlap]
@overload
def gen(function: Callable[P, R]) -> Function[P, R]: ...
def gen(function: Callable) -> GenerativeFunction:
    """Make a Python function a generative function.

    Inside it, `sample(address, distribution)` draws, and `sample(address, f(args))` calls another generative function.
    Arguments and return values are any pytrees.

    Args:
        function: a function of any arguments; it may return anything. A generative function is returned as it is.

    Returns:
        A generative function; see `GenerativeFunction` for its operations and combinators.

    Raises:
        AddressError: what is given is no function that runs to its end when called (a generator or async function, a
            class); while it runs, where an address is duplicate or misplaced.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def line(x):
        ...     slope = tg.sample("slope", tg.dist.Normal(0.0, 1.0))
        ...     return tg.sample("y", tg.dist.Normal(slope * x, 0.1))
        >>> trace, log_weight = line.generate(jax.random.key(0), {"y": 1.0}, 2.0)
        >>> sorted(trace.choices)
        ['slope', 'y']
    """
    if isinstance(function, GenerativeFunction):
        return function
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise AddressError(f"gen takes a function, and got a {kind}. Write `@{kind}` above `@gen`, not beneath it.")
    return Function(check_function("gen", "a function", function, AddressError))


@overload
def sample(address: str, what: Call[R], *, estimator: None = None) -> R: ...
@overload
def sample(address: str, what: Any, *, estimator: Estimator | None = None) -> Any: ...
def sample(address: str, what: Any, *, estimator: Estimator | None = None) -> Any:
    """Sample at an address of the generative function that is running.

    Args:
        address: a string, one of its kind in this function.
        what: a distribution (any object with `sample(key)` and `log_prob(value)`; `dist` has about a hundred), or a
            call of a generative function, `f(args)`.
        estimator: how the gradient of an expectation treats this site; by default reparameterised where the
            distribution can be, else score function.

    Returns:
        The value drawn or given (shape: batch shape then event shape), or what the called function returns.

    Raises:
        AddressError: outside a generative function; an address used twice; something that cannot be sampled.
        DistributionError: parameters that numpyro refuses; a draw from a distribution without a sampler.
        EstimatorError: an estimator that does not fit the distribution.

    Examples:
        >>> import jax, tracegrad as tg
        >>> two = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(0.5), estimator=tg.mvd()))
        >>> list(two.simulate(jax.random.key(0)).choices)
        ['b']
    """
    return _running("sample", address).visit(address, what, estimator)


def deterministic(address: str, value: Any) -> Any:
    """Name a value that the program computes, so that it is among the draws of posteriors and predictions.

    It is no choice: it has no density, and no operation takes a value for it.

    Args:
        address: a string, one of its kind in this function, samples included.
        value: an array or a number.

    Returns:
        The value.

    Raises:
        AddressError: outside a generative function; an address used twice.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.deterministic("square", z**2)
        >>> sorted(tg.predictive(model, key=jax.random.key(0), n=3))
        ['square', 'z']
    """
    _running("deterministic", address).note(address, value)
    return value


def factor(address: str, logp: Any) -> None:
    """Multiply the density of the program by exp(logp): a soft constraint, or a likelihood of one's own.

    The program is then an unnormalised density, as a `Target` may be. It cannot be a guide or be simulated, since its
    draws would not have the density that it says they have.

    Args:
        address: a string, one of its kind in this function.
        logp: a term of the log density, in nats, a float of any shape, which is summed; minus infinity forbids.

    Raises:
        AddressError: outside a generative function; an address used twice.
        DensityError: a term that is nan or infinite; when the program is simulated.

    Source: the `factor` statement of Stan (`target +=`), Pyro and WebPPL.

    Examples:
        >>> import tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.factor("near two", -0.5 * (z - 2.0) ** 2)
        >>> round(float(model.assess({"z": 1.0})[0]), 4)
        -1.9189
    """
    _running("factor", address).weigh(address, logp)


def _running(statement, address):
    """The frame of the function that is running."""
    frame = running.get()
    if frame is None:
        raise AddressError(
            f"{statement}({address!r}, ...) was called outside a generative function. Decorate the function around it "
            "with `gen` and run it through `simulate`, `assess` or `generate`."
        )
    return frame
