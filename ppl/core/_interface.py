"""What every generative function can be asked: seven operations, each one visit of the program (see `_operations`).

A generative function denotes a distribution over choices (nested dicts with string addresses) and a return value. Let
p(t; args) be the density of choices t.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Generic

import jax
from jaxtyping import Array, Float, Key
from typing_extensions import ParamSpec

from .._errors import AddressError, DensityError
from ..transforms import ArgumentError, RandomKeyError
from ..transforms._internal import as_array, check_key
from ._addresses import Choices, Path, as_arrays, as_selection, check_known, difference, paths
from ._bound_methods import Plain
from ._operations import Assess, AssessEach, Generate, Given, Operation, Outcome, Project, Regenerate, Simulate, Update
from ._overrides import isolated
from ._trace import R, Trace

P = ParamSpec("P", default=...)
"""The parameters of a generative function, to a type checker."""


def arguments(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Arguments with columns of tables as arrays; see `as_array`."""
    if all(as_array(x) is x for x in jax.tree.leaves((args, kwargs))):
        return args, kwargs
    return jax.tree.map(as_array, (args, kwargs))


class Interface(Plain, Generic[P, R]):
    """A program that can be visited, and the operations that are made of its visits."""

    @abc.abstractmethod
    def visit(self, operation: Operation, key: Any, given: Given, path: Path, args: tuple, kwargs: dict) -> Outcome:
        """Run the program once under an operation: the one method of a generative function."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    @property
    def origin(self) -> Any:
        """What tells programs apart where a trace of one is given to another: the code, not the data that it holds.

        Functions that are made anew, by `vmap()` or in a closure, have the origin of the old ones, and so has the same
        program with other estimators.
        """
        return type(self)

    def simulate(self, key: Key[Array, ""], *args: P.args, **kwargs: P.kwargs) -> Trace[R]:
        """Draw choices t ~ p(.; args).

        Args:
            key: one typed key.
            *args: arguments, any pytrees.
            **kwargs: keyword arguments.

        Returns:
            A `Trace`.

        Examples:
            >>> import jax, tracegrad as tg
            >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
            >>> tr = coin.simulate(jax.random.key(0), 0.5)
            >>> sorted(tr.choices), tr.logp.shape
            (['heads'], ())
        """
        check_key(key, f"{self.name}.simulate")
        return self._trace(self._visit(Simulate(), key, None, None, args, kwargs, "choices"), args, kwargs)

    def propose(self, key: Key[Array, ""], *args: P.args, **kwargs: P.kwargs) -> tuple[Choices, Float[Array, ""], R]:
        """Draw choices t ~ p(.; args), and return (t, log p(t; args), retval)."""
        tr = self.simulate(key, *args, **kwargs)
        return tr.choices, tr.logp, tr.retval

    def assess(
        self, choices: Mapping, *args, key: Key[Array, ""] | None = None, **kwargs
    ) -> tuple[Float[Array, ""], R]:
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

    def logps(self, choices: Mapping, *args, key: Key[Array, ""] | None = None, **kwargs) -> Choices:
        """The log density of full choices part by part: what `assess` adds up.

        Args:
            choices: a value for every sampled address.
            *args: arguments.
            key: needed where a density is itself estimated.
            **kwargs: keyword arguments.

        Returns:
            A float in nats at every address, those of factors among them; in a plate or a loop one for each lane or
            step. A call whose density is an estimate has one for all of its addresses.

        Raises:
            AddressError, ChoiceError: as for `assess`.

        Examples:
            >>> import tracegrad as tg
            >>> @tg.gen
            ... def model():
            ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
            ...     tg.sample("x", tg.dist.Normal(z, 1.0))
            >>> {address: round(float(x), 3) for address, x in model.logps({"z": 0.0, "x": 1.0}).items()}
            {'z': -0.919, 'x': -1.419}
        """
        return self._visit(AssessEach(), key, choices, None, args, kwargs, "choices").records

    def generate(self, key: Key[Array, ""], constraints: Mapping, *args, **kwargs) -> tuple[Trace[R], Float[Array, ""]]:
        """Draw a trace that agrees with constraints; the rest is drawn as the program says.

        Returns:
            (trace, log_weight): the weight is p(t; args) / q(t), with q the density of what was drawn, so the log
            density of the constrained sites; its exponential averages to the marginal likelihood of the constraints.
        """
        check_key(key, f"{self.name}.generate")
        out = self._visit(Generate(), key, constraints, None, args, kwargs, "constraints")
        return self._trace(out, args, kwargs), out.weight

    def update(
        self, key: Key[Array, ""], trace: Trace, constraints: Mapping, *args, **kwargs
    ) -> tuple[Trace, Float[Array, ""], Choices]:
        """Change choices and arguments of a trace, keeping what is neither changed nor gone.

        Args:
            key: one typed key, for choices at addresses that the old trace lacks.
            trace: a trace of this function: of the same code, with any estimators and arguments.
            constraints: new values at some addresses.
            *args: new arguments.
            **kwargs: new keyword arguments.

        Returns:
            (trace, log_weight, discarded): the weight is p(t'; args') / (p(t; args) q(fresh)); discarded are the old
            choices that were replaced or are gone.

        Raises:
            AddressError: an address that the function does not have; a trace of another function.
        """
        check_key(key, f"{self.name}.update")
        self._check_own("update", trace)
        out = self._visit(Update(), key, constraints, trace.choices, args, kwargs, "constraints")
        gone = difference(trace.choices, out.choices)
        return self._trace(out, args, kwargs), out.weight - trace.logp, {**out.discarded, **gone}

    def regenerate(
        self, key: Key[Array, ""], trace: Trace, selection: Any, *args, **kwargs
    ) -> tuple[Trace, Float[Array, ""], Choices]:
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
            AddressError: a pattern that matches no address, of the old trace or the new; a trace of another function.
            DensityError: a density among the kept choices is an estimate.
        """
        check_key(key, f"{self.name}.regenerate")
        self._check_own("regenerate", trace)
        selection = as_selection(selection)
        out = self._visit(Regenerate(selection), key, None, trace.choices, args, kwargs, "the trace")
        selection.check(_addresses(trace.choices, out.choices), f"{self.name}.regenerate")
        gone = difference(trace.choices, out.choices)
        try:
            kept = self._project(trace, ~selection)
        except RandomKeyError as error:
            raise DensityError(
                f"{self.name}.regenerate: a density among the choices that are kept is itself an estimate, and the "
                "trace holds one of its whole density, none of that part. Select those choices too, or draw new values "
                f"and write `update(key, trace, values, ...)`, which weighs by the trace's own estimate. ({error})"
            ) from error
        return self._trace(out, args, kwargs), out.weight - kept, {**out.discarded, **gone}

    def project(self, trace: Trace, selection: Any, *, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """The log density of the selected choices of a trace, each given what came before it: a scalar in nats.

        With a key, densities among them may be estimates; then the exponential's expectation is the density.

        Raises:
            AddressError: a pattern that matches no address of the trace; a trace of another function.
        """
        self._check_own("project", trace)
        selection = as_selection(selection)
        selection.check(_addresses(trace.choices), f"{self.name}.project")
        return self._project(trace, selection, key)

    def _project(self, trace, selection, key=None):
        operation = Project(selection)
        return self._visit(operation, key, trace.choices, None, trace.args, trace.kwargs, "the trace").weight

    def _check_own(self, operation, trace):
        """Refuse all but a trace of this program."""
        if not isinstance(trace, Trace):
            raise ArgumentError(
                f"{self.name}.{operation} takes a trace, as `simulate` and `generate` return it, and got "
                f"{type(trace).__name__}."
            )
        if trace.function.origin != self.origin:
            raise AddressError(
                f"{self.name}.{operation} takes a trace of {self.name}, and got one of {trace.function.name}, which is "
                "another program. To carry its choices over write "
                f"`{self.name}.generate(key, trace.choices, ...)`."
            )

    def _visit(self, operation, key, constraints, previous, args, kwargs, what):
        if constraints is not None and not isinstance(constraints, Mapping):
            raise AddressError(
                f"{what} for {self.name} must be a dict from addresses to values, and got "
                f"{type(constraints).__name__}. Write {{'z': value}}."
            )
        args, kwargs = arguments(args, kwargs)
        if key is not None:
            check_key(key, self.name)
        given = Given(None if constraints is None else as_arrays(constraints), previous)
        operation = operation.but(known=constraints)
        with isolated():
            out = self.visit(operation, key, given, (), args, kwargs)
        check_known(constraints or {}, out.choices, self.name, what)
        return out

    def _trace(self, out, args, kwargs):
        return Trace(self, args, kwargs, out.choices, out.retval, out.logp)


def _addresses(*choices):
    return {path for each in choices for path, _ in paths(each)}
