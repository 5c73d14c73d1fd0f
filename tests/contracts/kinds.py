"""How a contract is written: a call, and of what kind each of its arguments is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from wrong_values import Given

KEY = jax.random.key(0)


class Contract(NamedTuple):
    """A call by keyword, and its valid arguments.

    `untried` are the parameters that are not tried, because every value is right or none can be given.
    """

    call: Callable
    arguments: dict[str, Given]
    untried: tuple[str, ...] = ()


def contract(call, *untried, **arguments):
    return Contract(call, arguments, untried)


def given(kind, *, optional=False):
    return lambda value=None: Given(kind, value, optional)


count, maybe_count = given("count"), given("count", optional=True)
positive, share, number = given("positive"), given("share"), given("number")
flag, choices, all_choices = given("flag"), given("choices"), given("all choices")
function, maybe_function, body, callable_ = (
    given("function"),
    given("function", optional=True),
    given("body"),
    given("callable"),
)
selection, trace, target, algorithm = given("selection"), given("trace"), given("target"), given("algorithm")
floats, name = given("floats"), given("name")


def key():
    return Given("key", KEY)


def maybe_key():
    return Given("key", KEY, optional=True)
