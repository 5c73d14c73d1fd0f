"""Putting another draw in place of each: the same program with other sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._errors import NoRuleError
from ._given_noise import with_noise
from ._interpreter import Mode
from ._plan import Step
from ._site import Site, rebind, site_scope

Rewrite = Callable[[Site, list, Any], list]
"""From a site, its operands and its lanes to the values of what is drawn in its place."""


class Rewriting(Mode):
    """Draws what `site` puts in place of each draw; nothing is summed and nothing recorded.

    `nested` gives the values of an `expectation` inside, where that stays one. `refusal` says what to do about a
    `while_loop` in lanes that end apart, where what is put in place would not tell which lanes go on; None where that
    does not matter.
    """

    def __init__(
        self,
        site: Rewrite,
        *,
        nested: Callable[[Step, list], list] | None = None,
        refusal: str | None = None,
    ):
        self.site = site
        self.nested = nested
        self.refusal = refusal

    def draw(self, step, operands, alternative):
        """What is put in place."""
        return self.site(step.site, operands, step.lanes), None

    def enumerates(self, site):
        """Nothing is summed."""
        return False

    def among(self, loop: Any, going: jax.Array):
        """As anywhere, or refused."""
        if self.refusal is not None:
            raise NoRuleError(self.refusal)
        return self


def plain(site: Site, operands: list, lanes: Any, made: Sequence[Any] = ()) -> list:
    """A draw that is noise: without its estimator, whose arrays go, and its label; its early half may be `made`."""
    n = 1 + site.distribution.count
    lanes = with_noise(tuple(lane._replace(mapped=lane.mapped[:n]) for lane in lanes), len(made))
    with site_scope(site.label):
        return rebind([*operands[:n], *made], site._replace(label=(), estimator=None, early=len(made)), lanes)
