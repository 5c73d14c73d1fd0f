"""The keys of lanes: that of the plate, with the number of the lane put in where a draw is made.

Addresses are folded into the key of a plate once for all lanes, and the number of a lane goes into the words of what
comes of that: so a lane costs no more of the generator than the numbers that it draws. A key per lane, split off and
folded lane by lane, would cost three times that. What a lane draws depends on its number, not on how many there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from ..transforms._internal import key_in_lane


class LaneKey(NamedTuple):
    """The key of a visit in a lane of a plate: the key of all lanes, and the number of this one."""

    plate: Any
    lane: Any


def lane_keys(key: Any, n: int) -> tuple[LaneKey | None, Any]:
    """The keys of so many lanes, from the key of a visit, and along which axes they are mapped."""
    if key is None:
        return None, None
    return LaneKey(own(key), jnp.arange(n, dtype=jnp.uint32)), LaneKey(None, 0)


def folded(key: Any, number: int) -> Any:
    """The key of a visit, or of a draw, at an address of this number."""
    if isinstance(key, LaneKey):
        return key._replace(plate=jax.random.fold_in(key.plate, number))
    return jax.random.fold_in(key, number)


def own(key: Any) -> Any:
    """The key of a visit as one of JAX: to be drawn with, or split; None where there is none."""
    return key_in_lane(*key) if isinstance(key, LaneKey) else key
