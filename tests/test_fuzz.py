"""Wrong arguments for every public name: the library's own error that says which, or a right and finite answer.

Every argument of every contract is replaced by every wrong value of its kind, one at a time, and sometimes two. The
seed of what is tried moves with the commit; a failing case is printed with the line that runs it again.
"""

import contextlib
import functools
import inspect
import itertools
import random
import re
import signal
import typing
import warnings
from typing import NamedTuple

import jax
import numpy as np
import pytest
from contracts import CONTRACTS, MADE_BY_THE_LIBRARY, NOTHING_TO_GIVE
from moving_seed import VARIABLE, moving_seed
from wrong_values import KINDS

import tracegrad as tg

SINGLES, PAIRS = 100, 100
"""How many `make test` tries; `make slow` tries all single ones."""
SECONDS = 120

REASONS: dict[str, str] = {
    "sample(what=scale)": "its checks are switched off, by validate_args=False",
    "nan_as_missing(distribution=scale)": "its checks are switched off, by validate_args=False",
    "smc_bound(guide=none)": "without a guide the draws are the model's own",
    "with_estimators(objective=returns_none)": "it runs any program, whatever comes back",
    "with_estimators(objective=returns_complex)": "it runs any program, whatever comes back",
    "with_estimators(estimators=unfit)": "the draw of this program is one that can be enumerated",
    "describe_estimators(objective=returns_none)": "it looks at the sites, and there are none",
    "describe_estimators(objective=returns_complex)": "it looks at the sites, and there are none",
    "fit(params=nan)": "the text names the operation that was nan first, a subtraction outside of every site",
    "fit(data=nan)": "the text names the operation that was nan first, a subtraction outside of every site",
    "signal_to_noise(params=nan)": "a gradient that is not finite has no ratio",
    "signal_to_noise(data=nan)": "a gradient that is not finite has no ratio",
    "baseline_loss(objective=size, baseline=size)": "both are changed alike",
    "baseline_loss(objective=rank, baseline=rank)": "both are changed alike",
    "GenerativeFunction.simulate(scale=inf)": "numpyro takes infinity for a positive number",
    "compare_estimators(sites=unfit)": "the table says at which sites an estimator is refused, and why",
}
"""Cases ('name(argument=label)') that may return, and why."""


class Case(NamedTuple):
    """A contract with some of its arguments replaced: pairs of argument and label."""

    contract: str
    replaced: tuple[tuple[str, str], ...]

    def __str__(self):
        return f"{self.contract}({', '.join(f'{a}={label}' for a, label in self.replaced)})"

    @property
    def good(self):
        """Whether what is put in is right, too."""
        return all(label in KINDS[self.given(a).kind].good for a, label in self.replaced)

    def given(self, argument):
        """The valid argument."""
        return CONTRACTS[self.contract].arguments[argument]

    def arguments(self):
        """All arguments, those that are replaced among them."""
        values = {a: g.value for a, g in CONTRACTS[self.contract].arguments.items()}
        for a, label in self.replaced:
            kind = KINDS[self.given(a).kind]
            values[a] = (kind.good | kind.bad)[label](values[a])
        return values

    def named_by(self, text):
        """Whether a message says which argument is wrong: its name, what it is called, or the address of a site."""
        words = itertools.chain.from_iterable((a, *KINDS[self.given(a).kind].nouns) for a, _ in self.replaced)
        return any(re.search(rf"(?<![a-z_]){re.escape(w)}", text) for w in words) or re.search(r"'[a-z/]+'", text)


def singles():
    """Every argument with every wrong value of its kind."""
    return [
        Case(name, ((argument, label),))
        for name, contract in CONTRACTS.items()
        for argument, given in contract.arguments.items()
        for label in (KINDS[given.kind].good | KINDS[given.kind].bad)
        if not (given.optional and label == "none")
    ]


def pairs():
    """Every two arguments of a contract with every two wrong values."""
    one = [case for case in singles() if not case.good]
    return [
        Case(a.contract, a.replaced + b.replaced)
        for _, group in itertools.groupby(one, lambda case: case.contract)
        for a, b in itertools.combinations(group, 2)
        if a.replaced[0][0] != b.replaced[0][0]
    ]


@contextlib.contextmanager
def limited(seconds):
    """Stop what takes longer."""

    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(arguments, call):
    """What a call returns, with the warnings on the way."""
    with limited(SECONDS), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return call(**arguments), " ".join(str(w.message) for w in warned)


@functools.cache
def valid(name):
    """What the valid call of a contract returns."""
    return run({a: given.value for a, given in CONTRACTS[name].arguments.items()}, CONTRACTS[name].call)[0]


def numbers(out):
    """The arrays in a result."""
    leaves = out.values() if isinstance(out, dict) else jax.tree.leaves(out)
    nested = [numbers(x) if isinstance(x, dict) else [x] for x in leaves]
    return [np.asarray(x) for xs in nested for x in xs if isinstance(x, jax.Array | np.ndarray | float | int)]


def finite(out):
    """Whether all numbers of a result are."""
    return all(np.isfinite(x).all() for x in numbers(out) if np.issubdtype(x.dtype, np.inexact))


def same(out, expected):
    """Whether two results are equal, up to rounding."""
    xs, ys = numbers(out), numbers(expected)
    return [x.shape for x in xs] == [y.shape for y in ys] and all(
        map(functools.partial(np.allclose, rtol=1e-4), xs, ys)
    )


def outcome(case):
    """How a case ends, as (class, text)."""
    call = CONTRACTS[case.contract].call
    try:
        out, warned = run(case.arguments(), call)
    except tg.TracegradError as error:
        known = "listed" if str(case) in REASONS else "unnamed"
        return ("refused" if case.good else "clear" if case.named_by(str(error)) else known), str(error)
    except Exception as error:
        return "foreign", f"{type(error).__name__}: {error}"
    if case.good:
        return ("right", "") if same(out, valid(case.contract)) else ("wrong", repr(out))
    if case.named_by(warned):
        return "clear", warned
    if str(case) in REASONS:
        return "listed", repr(out)
    return ("silent" if finite(out) else "not finite"), repr(out)


def check(cases):
    """All cases end well; those that do not are shown."""
    found = [(case, *outcome(case)) for case in cases]
    bad = [
        (case, how, " ".join(text.split())[:300])
        for case, how, text in found
        if how not in ("clear", "right", "listed")
    ]
    lines = [f"{how}: {case}\n    {text}\n    check([{case!r}])" for case, how, text in bad]
    assert not bad, f"{len(bad)} of {len(found)} cases, {VARIABLE}={moving_seed()}\n" + "\n".join(lines)


def names():
    """Every public name, and every public method of a public class, with its object."""
    for prefix, package in (("", tg), ("auto.", tg.auto)):
        public = {name: x for name, x in vars(package).items() if name[0] != "_" and not inspect.ismodule(x)}
        for name, thing in public.items():
            yield prefix + name, thing
            if inspect.isclass(thing) and not issubclass(thing, BaseException):
                for method, function in inspect.getmembers(thing, inspect.isfunction):
                    if not method.startswith("_"):
                        yield f"{prefix}{name}.{method}", function


def is_error(thing):
    return inspect.isclass(thing) and issubclass(thing, BaseException)


def test_every_public_name_has_a_contract():
    known = {*CONTRACTS, *NOTHING_TO_GIVE, *MADE_BY_THE_LIBRARY}
    public = dict(names())
    assert {name for name, thing in public.items() if not is_error(thing)} - known == set()
    assert known - set(public) == set()


def shared_by_name(function):
    """The names of what is taken by `**options: Unpack[...]`."""
    hints = typing.get_type_hints(inspect.unwrap(function))
    dicts = [typing.get_args(hint)[0] for hint in hints.values() if typing.get_origin(hint) is typing.Unpack]
    return {name for each in dicts for name in each.__annotations__}


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_parameter_has_a_kind(name):
    kinds, function = inspect.Parameter, dict(names())[name]
    parameters = inspect.signature(function).parameters.values()
    taken = {p.name for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) and p.name != "self"}
    if any(p.kind is kinds.VAR_KEYWORD and "Unpack" in str(p.annotation) for p in parameters):
        taken |= shared_by_name(function)
    variadic = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    described = {*CONTRACTS[name].arguments, *CONTRACTS[name].untried}
    assert taken - described == set()
    assert described - taken == set() or variadic


@pytest.mark.table
@pytest.mark.parametrize("name", CONTRACTS)
def test_a_valid_call_is_finite(name):
    assert finite(valid(name))


def test_wrong_arguments_are_refused():
    chance = random.Random(moving_seed())
    check(chance.sample(singles(), SINGLES) + chance.sample(pairs(), PAIRS))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRACTS)
def test_every_wrong_argument_is_refused(name):
    check([case for case in singles() if case.contract == name])
