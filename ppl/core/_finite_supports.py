"""The values that a discrete site can take, for all who list them: exact sums, filters, categorical families."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Shaped

from .._errors import DensityError
from ..transforms import elementwise, support
from ..transforms._internal import law
from ._addresses import Path, show


def finite_support(path: Path, distribution: Any, remedy: str) -> tuple[tuple[int, ...], Shaped[Array, " k *event"]]:
    """The shape of the independent elements of a latent site, and the k values that each can take, (k, *event).

    Raises:
        DensityError: they are not finite in number; the text ends with the remedy.
    """
    flat = elementwise(law(distribution))
    values = support(flat)
    if values is None:
        raise DensityError(
            f"The latent at {show(path)} ({type(distribution).__name__}) has no finite support, so {remedy}"
        )
    return tuple(getattr(flat, "batch_shape", ())), values
