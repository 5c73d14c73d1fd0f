"""The frame of one visit of one function body: what `sample`, `deterministic` and `factor` find when they are called.

The key of a site is folded from the visit's key and the site's address, so what is drawn at one address does not
depend on which other addresses there are.
"""

from __future__ import annotations

import contextvars
import zlib
from collections.abc import Mapping
from typing import Any

from jax import numpy as jnp

from .._errors import AddressError, ChoiceError, DensityError
from ..distributions._relaxations import Relaxing
from ..transforms import Estimator, EstimatorError, RandomKeyError
from ..transforms._internal import real, site_scope, trace_state
from ._addresses import WILDCARDS, Choices, Path, show
from ._generative import Call, GenerativeFunction
from ._given_values import conform
from ._lane_keys import folded, own
from ._operations import At, Given, Operation
from ._overrides import chosen
from ._refused_distributions import check_parameters


class Frame:
    """The state of one visit of one function body."""

    def __init__(self, name: str, operation: Operation, key: Any, given: Given, path: Path):
        self.name = name
        self.operation = operation
        self.key = key
        self.given = given
        self.path = path
        self.choices: Choices = {}
        self.discarded: Choices = {}
        self.records: Choices = {}
        self.logps: list = []
        self.weights: list = []
        self.folds: dict[int, str] = {}
        self.state = trace_state()

    def visit(self, address: str, what: Any, estimator: Any) -> Any:
        """Visit one address."""
        self._check(address, what, estimator)
        path, given = (*self.path, address), self.given.at(address)
        if isinstance(what, Call):
            return self._call(address, what, given, path)
        if given.fixed is not None:
            return self._intervened(path, what, given.fixed)
        if given.observed is not None:
            return self._conditioned(address, path, what, given.observed)
        estimator = chosen(path, estimator)
        if isinstance(estimator, Relaxing):
            what, estimator = estimator.relaxed(show(path), what), None
        at = At(path, what, estimator, lambda: own(self._key(address)), self.operation.attitude)
        if isinstance(given.previous, Mapping):
            raise ChoiceError(f"The choice at {show(path)} was nested in the previous trace, and is one value now.")
        visit = self.operation.site(at, given)
        self.choices[address] = visit.value
        logp = _total(visit.logp)
        weight = logp if visit.weight is visit.logp else _total(visit.weight)
        self._count(address, *self.operation.scaled(path, logp, weight, drawn=weight is None))
        if visit.discarded is not None:
            self.discarded[address] = visit.discarded
        if visit.record is not None:
            self.records[address] = visit.record
        return visit.goes_on_with

    def _intervened(self, path, distribution, value):
        """A value in place of a site, which is no choice any more."""
        attitude = self.operation.attitude
        for sites in attitude.interventions:
            sites.add(path)
        return conform(path, distribution, value, attitude._replace(live=False))

    def _conditioned(self, address, path, distribution, value):
        """A choice that is given for good: a term of the density, and no choice any more."""
        attitude = self.operation.attitude
        for sites in attitude.conditions:
            sites.add(path)
        with site_scope(path):
            visit = At(path, distribution, None, lambda: own(self._key(address)), attitude).take(value)
        self._term(address, path, _total(visit.logp), "a condition")
        return visit.goes_on_with

    def note(self, address: str, value: Any) -> None:
        """A value that is no choice, for the operations that ask for it."""
        self._claim(address, "deterministic")
        noted = self.operation.note((*self.path, address), value)
        if noted is not None:
            self.records[address] = noted

    def weigh(self, address: str, logp: Any) -> None:
        """A term of the log density that belongs to no choice."""
        self._claim(address, "factor")
        path, who = (*self.path, address), f"factor({address!r}, ...) in {self.name}"
        logp = real(who, "logp", logp, DensityError, "a log density below infinity", _below_infinity, scalar=False)
        self._term(address, path, jnp.sum(jnp.asarray(logp, float)), "a factor")

    def _term(self, address, path, logp, what):
        logp = self.operation.factor(path, logp, what)
        weight = logp if self.operation.weighs(path, drawn=False) else None
        self._count(address, *self.operation.scaled(path, logp, weight, drawn=False))

    def _call(self, address, call, given, path):
        for part in given:
            if part is not None and not isinstance(part, Mapping):
                raise ChoiceError(
                    f"The choice at {show(path)} is that of a generative function ({call.function.name}), so it is a "
                    f"dict of its addresses, and got {type(part).__name__}."
                )
        key = None if self.key is None else self._key(address)
        out = call.function.visit(self.operation, key, given, path, call.args, call.kwargs)
        if out.choices:
            self.choices[address] = out.choices
        self._count(address, out.logp, out.weight)
        if out.discarded:
            self.discarded[address] = out.discarded
        if out.records:
            self.records[address] = out.records
        return out.retval

    def _count(self, address, logp, weight):
        self.logps.append(logp)
        if self.operation.keeps_densities and logp is not None:
            self.records[address] = logp  # of a call its own take the place of this one
        if weight is not None:
            self.weights.append(weight)

    def _claim(self, address, statement):
        """Refuse an address that is none, misplaced or taken."""
        if not isinstance(address, str) or not address or "/" in address or address in WILDCARDS:
            raise AddressError(
                f"An address is a non-empty string without '/', other than the '*' and '**' of patterns, and "
                f"{self.name} gave {address!r}."
            )
        if self.state != trace_state():
            raise AddressError(
                f"{statement}({address!r}, ...) in {self.name} is inside a JAX transformation (jit, vmap, grad, scan, "
                "cond, ...) of its own. Make what is inside a generative function, and sample it through a combinator: "
                "`sample('steps', step.scan()(init, xs))`, `sample('points', point.vmap()(xs))`, "
                "`sample('branch', cond(p, f, g)(x))`."
            )
        number = self._number(address)
        if number in self.folds:
            raise AddressError(
                f"The address {show((*self.path, address))} is sampled twice in {self.name}. Give each sample its own "
                "address, or sample repeated ones through `.vmap()`, `.scan()` or `.repeat(n)`."
            )
        self.folds[number] = address

    def _check(self, address, what, estimator):
        self._claim(address, "sample")
        if isinstance(what, GenerativeFunction):
            raise AddressError(
                f"sample({address!r}, {what.name}) in {self.name}: a generative function is sampled with its "
                f"arguments: write sample({address!r}, {what.name}(...))."
            )
        if isinstance(what, type) or not isinstance(what, Call) and not _is_distribution(what):
            got = f"the class {what.__name__}" if isinstance(what, type) else type(what).__name__
            raise AddressError(
                f"sample({address!r}, ...) in {self.name} takes a distribution (an object with `sample(key)` and "
                f"`log_prob(value)`) or a call of a generative function, and got {got}."
            )
        check_parameters(what, (*self.path, address))
        if estimator is not None and (isinstance(what, Call) or not isinstance(estimator, Estimator)):
            raise EstimatorError(
                f"sample({address!r}, ...) in {self.name}: `estimator` belongs to a distribution and is one like "
                f"`mvd()`, and got {estimator!r}. For a call write `f.with_estimators({{...}})`."
            )

    def _number(self, address):
        """A number for the address, the next free one where two addresses have the same checksum."""
        number = zlib.crc32(address.encode())
        while number in self.folds and self.folds[number] != address:
            number = (number + 1) % 2**32
        return number

    def _key(self, address):
        if self.key is None:
            raise RandomKeyError(
                f"The density at {show((*self.path, address))} is estimated, so this operation needs a key: "
                "`assess(choices, ..., key=key)`."
            )
        return folded(self.key, self._number(address))


def _is_distribution(what):
    return hasattr(what, "sample") and hasattr(what, "log_prob")


def _below_infinity(logp):
    return logp < jnp.inf


def _total(logp):
    """The log density of a site over its batch; None, and what is a scalar already, as they are."""
    return logp if logp is None or jnp.ndim(logp) == 0 else jnp.sum(logp)


running: contextvars.ContextVar[Frame | None] = contextvars.ContextVar("frame", default=None)
"""The frame of the function that runs now."""
