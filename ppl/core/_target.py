"""`Target`: a generative function with some of its choices observed, an unnormalised density over the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from .._errors import AddressError
from ..transforms import ArgumentError, TracegradError
from ..transforms._internal import check_key
from ._addresses import Choices, Path, check_known, lookup, merge, nest, paths
from ._arguments import generative, observations, positional
from ._bound_methods import Plain
from ._generative import GenerativeFunction
from ._interface import arguments
from ._operations import Assess, Generate, Given, Operation, Outcome
from ._overrides import isolated


def checked_target(what: str, target: Any, error: type[TracegradError] = ArgumentError) -> Target:
    """A target, and nothing else."""
    if not isinstance(target, Target):
        got = type(target).__name__
        raise error(f"{what} takes a Target, and got {got}. Write `Target(function, args, observed)`.")
    return target


class Target(Plain):
    """gamma(z) = p(z, observed; args), the density of a posterior up to its integral Z = p(observed; args).

    Args:
        function: a generative function over the latent and the observed addresses.
        args: its arguments, a tuple; what is not a tuple of Python's own is taken as the only argument.
        observed: values at the observed addresses, a nested dict.
        kwargs: its keyword arguments.
        path: the addresses around it, where it is part of a larger program: messages and the choice of estimators go by
            them.

    Raises:
        AddressError: `observed` is not a dict; on use, it has an address that the function does not have.
        ArgumentError: `args` is a tuple of several, and the function takes one argument.

    Examples:
        >>> import tracegrad as tg
        >>> @tg.gen
        ... def model(scale):
        ...     z = tg.sample("z", tg.dist.Normal(0.0, scale))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> target = tg.Target(model, args=(2.0,), observed={"x": 1.5})
        >>> float(target.log_prob({"z": 1.0})) < 0.0
        True
    """

    function: GenerativeFunction
    args: tuple
    observed: Choices
    kwargs: dict
    path: Path = eqx.field(static=True)

    def __init__(
        self,
        function: GenerativeFunction,
        args: Any = (),
        observed: Mapping | None = None,
        kwargs: Mapping | None = None,
        path: Path = (),
    ):
        self.function = generative("Target", function, error=AddressError)
        self.observed = observations("Target", {} if observed is None else observed)
        self.args, self.kwargs = arguments(positional(args, self.function), {} if kwargs is None else dict(kwargs))
        self.path = path

    def log_prob(self, latents: Mapping, *, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """Log gamma(latents): a float scalar in nats; with a key, an estimate where the function's density is one."""
        if key is not None:
            check_key(key, "Target.log_prob")
        with isolated():
            return self.visit(Assess(), key, latents).logp

    def latents(self) -> Choices:
        """The latent choices as `jax.ShapeDtypeStruct`s, without drawing any.

        Raises:
            AddressError: an observed address that the function does not have.
            ChoiceError: an observed value of the wrong shape, type or support.
        """
        operation = Generate().but(in_place=True)
        out = jax.eval_shape(lambda key: self.visit(operation, key).choices, jax.random.key(0))
        return self.without_observed(out)

    def draw(self, key: Key[Array, ""]) -> tuple[Choices, Float[Array, ""], Float[Array, ""]]:
        """Draw latents as the program does, each given what came before it.

        Returns:
            (latents, log_weight, log_gamma): the weight is the density of the observed, the factors of gamma that the
            draw left out.
        """
        check_key(key, "Target.draw")
        out = self.visit(Generate(), key)
        return self.without_observed(out.choices), out.weight, out.logp

    def visit(
        self,
        operation: Operation,
        key: Any,
        latents: Mapping | None = None,
        *,
        previous: Mapping | None = None,
        what: str = "the latents",
    ) -> Outcome:
        """Run the program once under an operation, at the observed choices and these latents.

        Raises:
            AddressError: one of them is at an address that the program does not have: it would count for nothing.
        """
        latents = {} if latents is None else latents
        constraints = merge(self.observed, latents)
        operation = operation.but(known=nest({(*self.path, *p): x for p, x in paths(constraints)}))
        out = self.function.visit(operation, key, Given(constraints, previous), self.path, self.args, self.kwargs)
        check_known(self.observed, out.choices, self.function.name, "observed")
        check_known(latents, out.choices, self.function.name, what)
        return out

    def without_observed(self, choices: Mapping) -> Choices:
        """The choices at the latent addresses."""
        return nest({p: x for p, x in paths(merge(choices)) if lookup(self.observed, p) is None})
