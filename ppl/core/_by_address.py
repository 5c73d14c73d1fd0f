"""Things chosen from outside a program, by address patterns: the most specific pattern wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx

from .._errors import AddressError
from ._addresses import Path, as_path, matches, paths, specificity, unmatched


class ByAddress(eqx.Module):
    """Patterns with what they choose, the most specific first."""

    patterns: tuple[Path, ...] = eqx.field(static=True)
    chosen: tuple[Any, ...]

    def __init__(self, choice: Mapping):
        entries = sorted(((as_path(p), x) for p, x in choice.items()), key=lambda e: specificity(e[0]), reverse=True)
        self.patterns = tuple(p for p, _ in entries)
        self.chosen = tuple(x for _, x in entries)


class InForce:
    """What is chosen from a path on, and where it has been asked for."""

    weighs_draws = False
    """Whether, as a scale, it weighs what a simulation draws."""

    def __init__(self, what: str, choice: ByAddress, path: Path):
        self.what = what
        self.choice = choice
        self.depth = len(path)
        self.seen: set[Path] = set()

    def at(self, path: Path) -> Any:
        """What is chosen at a path; None where nothing is."""
        below = path[self.depth :]
        self.seen.add(below)
        pairs = zip(self.choice.patterns, self.choice.chosen, strict=True)
        return next((x for p, x in pairs if matches(p, below)), None)

    def check_used(self, who: str, choices: Mapping) -> None:
        """Refuse patterns that matched nothing."""
        known = self.seen | {p for p, _ in paths(choices)}
        for pattern in self.choice.patterns:
            if not any(matches(pattern, path) for path in known):
                raise AddressError(unmatched(f"{self.what} for {who}", pattern, known))
