"""Where a run stops being finite: at which step, in which operation, at which sample site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._errors import ChoiceError
from ..transforms._internal import is_inexact, nonfinite
from ._loop import Now


def last_good(again: Callable[[int], Now], is_good: Callable[[Now], Any], count: int) -> tuple[int, Now]:
    """How many of `count` steps can be taken before what follows is not finite, and what is there after them.

    `again(n)` takes n steps from the same beginning. By halving: what has gone bad stays bad.
    """
    now = again(count)
    if is_good(now):
        return count, now
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if is_good(again(middle)) else (good, middle)
    return good, again(good)


def _origin(fun, given) -> str:
    """Where a number that is not finite comes from, as the error says it; the data of a step are known here."""
    try:
        came = nonfinite(fun, given)
    except ChoiceError as error:
        return f". {error}".removesuffix(".")
    return "" if came is None else f", first in {came}"


def what_went_bad(loss: Callable, before: Now, after: Now, value: Any, step: int) -> str:
    """In words what was not finite at a step, and where it comes from.

    Args:
        loss: that of the step, of the arrays, and of a state if it is given; with the objective and the next state.
        before: what was there before the step, which is good.
        after: what was there after it.
        value: the objective at that step.
        step: its number.
    """

    def slope(arrays):
        return jax.grad(lambda arrays: loss(arrays)[0])(arrays)

    if not np.isfinite(value):
        what, came = f"the objective is {value}", _origin(lambda arrays: loss(arrays)[0], before.arrays)
    elif _is_state_alone(before, after):
        bad = _bad_leaf(after.state, before.state)
        what = f"the objective's next state, state{bad}, is not finite"
        came = _origin(lambda given: _leaf_at(bad, loss(*given)[1][1]), (before.arrays, before.state))
    else:
        what, came = _bad_in(slope(before.arrays), before, after), _origin(slope, before.arrays)
    already = _bad_entry(before.arrays)
    already = "" if already is None else f"; params{already} was not finite before it"
    return (
        f"{what} at step {step}{came}{already}. Look for a density at a value outside its support, a scale that "
        "reached zero, or a learning rate that is too high."
    )


def _is_state_alone(before: Now, after: Now) -> bool:
    """Whether of all that changes nothing but the objective's own state is not finite."""
    rest = (after.arrays, after.opt_state), (before.arrays, before.opt_state)
    return _bad_leaf(after.state, before.state) is not None and _bad_leaf(*rest) is None


def _bad_in(slope: Any, before: Now, after: Now) -> str:
    """What is not finite where the objective is."""
    bad = _bad_leaf(slope)
    if bad is not None:
        return f"the gradient of params{bad} is not finite"
    if _bad_leaf(after.arrays, before.arrays) is not None:
        return "the optimiser's update is not finite"
    return f"the optimiser's state, opt_state{_bad_leaf(after.opt_state, before.opt_state)}, is not finite"


def _bad_leaf(tree: Any, before: Any = None) -> str | None:
    """The path of the first array with an entry that is not finite, and was before."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, x), y in zip(leaves, [0.0] * len(leaves) if before is None else jax.tree.leaves(before), strict=True):
        if is_inexact(x) and (~np.isfinite(x) & np.isfinite(y)).any():
            return jax.tree_util.keystr(path)
    return None


def _bad_entry(tree: Any) -> str | None:
    """The path of the first array with an entry that is not finite, and the index of that entry."""
    bad = _bad_leaf(tree)
    if bad is None:
        return None
    index = np.argwhere(~np.isfinite(_leaf_at(bad, tree)))[0]
    return bad + (f"[{', '.join(map(str, index))}]" if len(index) else "")


def _leaf_at(name: str | None, tree: Any) -> Any:
    """The leaf with this path."""
    return next(x for path, x in jax.tree_util.tree_leaves_with_path(tree) if jax.tree_util.keystr(path) == name)
