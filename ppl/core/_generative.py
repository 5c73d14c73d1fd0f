"""The generative function: its operations, the combinators that keep it, and what is changed of it from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic

import equinox as eqx

from .._errors import AddressError, ChoiceError
from ..transforms._internal import function as check_function
from ..transforms._internal import whole
from ._addresses import Choices, Path, as_arrays, merge, nest, paths, unmatched
from ._by_address import ByAddress, InForce
from ._combinators import Combinator, Masked, Repeat, Scan, Vmap, While
from ._coordinates import coordinates_of
from ._docstrings import shows_wrapped
from ._interface import Interface, P, arguments
from ._operations import Given
from ._overrides import estimators_of, override
from ._scales import scales_of
from ._trace import R


class Call(eqx.Module, Generic[R]):
    """A generative function with its arguments, ready to be sampled at an address."""

    function: GenerativeFunction
    args: tuple
    kwargs: dict


class GenerativeFunction(Interface[P, R]):
    """A distribution over choices and a return value. Make one with `gen`; call it to sample it at an address.

    To a type checker it is `GenerativeFunction[parameters, what it returns]`, and `GenerativeFunction` is any one.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
        >>> isinstance(coin, tg.GenerativeFunction), float(coin.assess({"heads": 1}, 0.25)[0] == jax.numpy.log(0.25))
        (True, 1.0)
        >>> coin.repeat(3).simulate(jax.random.key(0), 0.25).choices["heads"].shape
        (3,)
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The function with its arguments, for `sample(address, f(args))`."""
        return Call(self, *arguments(args, kwargs))

    # ---- combinators ----

    def vmap(self, in_axes: Any = 0, *, axis_size: int | None = None, chunk: int | None = None) -> GenerativeFunction:
        """Independent lanes under `jax.vmap`; choices are stacked along a leading axis.

        Args:
            in_axes: as for `jax.vmap`, over the positional arguments.
            axis_size: the number of lanes, where no argument is mapped.
            chunk: run at most so many lanes at a time, in a loop, and compute them again for the derivative, so that
                what is computed in lanes takes the memory of one chunk. Draws do not change. Chunks of one size are
                made where a divisor of the number of lanes is at hand, from half of `chunk` on; otherwise lanes are
                left over, which are copied, compiled once more, and whose score terms (`reinforce`) are credited
                together. None runs all at once.

        Raises:
            ChoiceError: an option that is not a number of lanes; on use, arguments without an axis of one size.

        Examples:
            >>> import jax, jax.numpy as jnp, tracegrad as tg
            >>> noisy = tg.gen(lambda x: tg.sample("y", tg.dist.Normal(x, 1.0)))
            >>> key, xs = jax.random.key(0), jnp.zeros(1000)
            >>> some, all_ = (noisy.vmap(chunk=k).simulate(key, xs) for k in (100, None))
            >>> bool((some.choices["y"] == all_.choices["y"]).all())
            True
        """
        return Combined(self, Vmap(in_axes, axis_size, chunk))

    def scan(
        self, length: int | None = None, *, reverse: bool = False, unroll: int = 1, checkpoint: int | None = None
    ) -> GenerativeFunction:
        """A loop `f(carry, x) -> (carry, y)` as in `jax.lax.scan`, called as `f.scan()(init, xs)`.

        Choices are stacked along a leading axis, one entry for each step. An initial carry of a narrower type than
        the step returns (a bool for an integer, say) is promoted.

        Args:
            length: the number of steps, where there are no xs.
            reverse: whether the last step runs first.
            unroll: how many steps the compiler sees at once.
            checkpoint: for the derivative keep the carry before every block of at most so many steps, and what is
                computed in one block, which is then computed again; 1 keeps every carry, and about the square root of
                the number of steps takes the least memory. Neither draws nor values change, nor does the rule for
                blocks differ from that for the chunks of `vmap`. None keeps what all steps compute.

        Raises:
            ChoiceError: an option out of its range; on use, a carry that changes its type, or steps without a number.

        Examples:
            >>> import jax, tracegrad as tg
            >>> walk = tg.gen(lambda x, _: (tg.sample("x", tg.dist.Normal(x, 1.0)), None))
            >>> key = jax.random.key(0)
            >>> some, all_ = (walk.scan(900, checkpoint=k).simulate(key, 0.0, None) for k in (30, None))
            >>> bool((some.choices["x"] == all_.choices["x"]).all())
            True
        """
        return Combined(self, Scan(length, reverse, unroll, checkpoint))

    def while_loop(self, condition: Callable, *, max_steps: int) -> GenerativeFunction:
        """A loop `f(state) -> state` as long as `condition(state)` holds, called as `f.while_loop(...)(state)`.

        It is a scan of `max_steps` steps, so that it can be differentiated and its traces have one shape: choices are
        stacked along a leading axis, and those past the end count for nothing (see `mask`). A run that would go on
        after `max_steps` is cut there: the program is that truncated one. Of a run that was cut the condition holds of
        the state that is returned, which says so inside `jit` and `vmap` too; outside of them there is a warning.
        `tg.factor("ended", jnp.where(condition(state), -jnp.inf, 0.0))` gives such runs no density.

        Args:
            condition: a function of the state to one bool.
            max_steps: the most steps, a positive integer.

        Returns:
            A generative function of the initial state that returns the last one.

        Raises:
            ChoiceError: a state that changes its structure, shapes or types; a condition that is no bool.

        Examples:
            >>> import jax, tracegrad as tg
            >>> @tg.gen
            ... def flip(state):
            ...     tails, heads = state
            ...     return tails + 1, tg.sample("heads", tg.dist.Bernoulli(0.5)) == 1
            >>> flips = flip.while_loop(lambda state: ~state[1], max_steps=20)  # a geometric number of flips
            >>> flips.simulate(jax.random.key(0), (0, False)).choices["heads"].shape
            (20,)
        """
        return Combined(self, While(check_function("while_loop", "a condition", condition, ChoiceError), max_steps))

    def repeat(self, n: int) -> GenerativeFunction:
        """`n` independent copies with the same arguments; choices are stacked along a leading axis."""
        n = whole(f"{self.name}.repeat", "n, the number of copies,", n, AddressError, least=0)
        return Combined(self, Repeat(n))

    def mask(self) -> GenerativeFunction:
        """The function with a flag as its first argument; where it is false the choices have no density.

        The choices and the return value are there either way; use them only where the flag is true. Where it is
        false a given choice may be anything, NaN too: missing data are given as they are.
        """
        return Combined(self, Masked())

    def with_estimators(self, estimators: Mapping) -> GenerativeFunction[P, R]:
        """The same program with other gradient estimators, chosen by address.

        Args:
            estimators: from address patterns ('z', 'steps/z', ('steps', 'z'), '*', '**/z') to estimators. The most
                specific pattern wins, and a choice from further outside wins over one from inside.

        Raises:
            AddressError: a pattern that matches no sample.

        Examples:
            >>> import tracegrad as tg
            >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
            >>> better = coin.with_estimators({"heads": tg.mvd()})
        """
        return Overridden(self, estimators_of(estimators))

    def do(self, values: Mapping) -> GenerativeFunction[P, R]:
        """The program after an intervention: some sites are replaced by values, whatever would have been drawn there.

        They are choices no more: nothing is given or weighed at them, and what comes after sees the values.
        (`condition` weighs them.)

        Args:
            values: from addresses to values, a nested dict; of stacked sites, all of them.

        Raises:
            AddressError: an address at which the program does not sample a distribution.
            ChoiceError: a value of another shape or type than the site's.

        Source: Pearl, Causality, 2009, section 3.4.

        Examples:
            >>> import tracegrad as tg
            >>> @tg.gen
            ... def model():
            ...     rain = tg.sample("rain", tg.dist.Bernoulli(0.2))
            ...     return tg.sample("wet", tg.dist.Bernoulli(0.1 + 0.8 * rain))
            >>> round(float(model.do({"rain": 1}).assess({"wet": 1})[0]), 4)  # log 0.9
            -0.1054
        """
        return Intervened(self, _values("do", values))

    def condition(self, values: Mapping) -> GenerativeFunction[P, R]:
        """The program given some of its choices: its density over the others is that of all of them.

        They are choices no more, and what comes after sees the values. The density is unnormalised, as with `factor`:
        the program is a model, for `Target`, `elbo`, `nuts`, and no guide. `Target(function, args, values)` is the same
        for a program at its arguments, and keeps the values apart as observations, for checks and for ArviZ.

        Args:
            values: from addresses to values, a nested dict; of stacked sites, all of them.

        Raises:
            AddressError: an address at which the program does not sample a distribution.
            ChoiceError: a value of another shape, type or support than the site's.
            DensityError: when it is simulated.

        Source: `handlers.condition` of NumPyro and Pyro.

        Examples:
            >>> import tracegrad as tg
            >>> @tg.gen
            ... def model():
            ...     rain = tg.sample("rain", tg.dist.Bernoulli(0.2))
            ...     return tg.sample("wet", tg.dist.Bernoulli(0.1 + 0.8 * rain))
            >>> round(float(model.condition({"wet": 1}).assess({"rain": 1})[0]), 4)  # log 0.2 + log 0.9
            -1.7148
        """
        return Conditioned(self, _values("condition", values))

    def with_scale(self, scale: Mapping) -> GenerativeFunction[P, R]:
        """The same program with weights on parts of its log density: sum over addresses of scale * log p(address).

        A minibatch of B of N rows is `{"data": N / B}`, a tempered likelihood `{"data": 0.5}`, a beta-VAE or a
        meta-prior a scale of the prior. The density is then unnormalised: the program is a model, no guide.

        Args:
            scale: from address patterns, as for `with_estimators`, to numbers of zero or more, traced ones too. The
                most specific pattern wins; scales from further outside multiply.

        Raises:
            AddressError: a pattern that matches no address.
            DensityError: a number below zero or not finite; when the program is simulated.

        Examples:
            >>> import tracegrad as tg
            >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
            >>> round(float(coin.with_scale({"heads": 10.0}).assess({"heads": 1}, 0.5)[0]), 4)
            -6.9315
        """
        return Chosen(self, "scales", scales_of(scale))

    def with_coordinates(self, coordinates: Mapping) -> GenerativeFunction[P, R]:
        """The same program, whose latents have other coordinates on its unconstrained space, chosen by address.

        Addresses, choices and density are the same; what changes is where `auto` families, `nuts` and `hmc` move.

        Args:
            coordinates: from address patterns, as for `with_estimators`, to `noncentred()` or to a transform of
                numpyro's from the real line to the support of the site.

        Raises:
            AddressError: a pattern that matches no sample.
            DensityError: something else in place of coordinates; on use, a site that they do not fit.

        Examples:
            >>> import tracegrad as tg
            >>> @tg.gen
            ... def model():
            ...     scale = tg.sample("scale", tg.dist.HalfNormal(1.0))
            ...     tg.sample("z", tg.dist.Normal(0.0, scale))
            >>> target = tg.Target(model.with_coordinates({"z": tg.noncentred()}))
            >>> tg.to_unconstrained(target).size
            2
        """
        return Chosen(self, "coordinates", coordinates_of(coordinates))


def _values(what, values):
    if not isinstance(values, Mapping):
        raise AddressError(f"{what} takes a dict from addresses to values, like {{'z': 1.0}}, and got {values!r}.")
    return as_arrays(values)


class Combined(GenerativeFunction):
    """A generative function under a combinator."""

    function: GenerativeFunction
    combinator: Combinator

    @property
    def name(self) -> str:
        """The name of what is combined."""
        return f"{self.function.name}.{type(self.combinator).__name__.lower()}"

    @property
    def origin(self) -> Any:
        """That of the function, under such a combinator."""
        return type(self.combinator), self.function.origin

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit through the combinator."""
        if kwargs:
            raise AddressError(f"{self.name} takes positional arguments only, and got {sorted(kwargs)}.")
        return self.combinator.visit(self.function.visit, operation, key, given, path, args)


class Around(GenerativeFunction[P, R]):
    """A generative function around another, visited in another way: the same program, under the same name."""

    function: GenerativeFunction

    @property
    def name(self) -> str:
        """That of the function."""
        return self.function.name

    @property
    def origin(self) -> Any:
        """That of the function."""
        return self.function.origin

    @property
    def __wrapped__(self) -> Any:
        """The function, for `inspect` and editors."""
        return self.function


@shows_wrapped
class Chosen(Around[P, R]):
    """A generative function with scales or coordinates chosen from outside: `field` of the attitude is which."""

    field: str = eqx.field(static=True)
    choice: ByAddress

    @property
    def origin(self) -> Any:
        """That of the function; scaled it is another program."""
        return ("scaled", self.function.origin) if self.field == "scales" else self.function.origin

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the choice in force, after those from further outside."""
        active = InForce(self.field, self.choice, path)
        operation = operation.but(**{self.field: (*getattr(operation.attitude, self.field), active)})
        out = self.function.visit(operation, key, given, path, args, kwargs)
        active.check_used(self.name, out.choices)
        return out


class Put(Around[P, R]):
    """A generative function with values put at some of its sites, by an operation of this `word`.

    Sites that are met write themselves down under `field` of the attitude, so that a value which meets none is refused.
    """

    values: Choices

    word: ClassVar[str]
    field: ClassVar[str]

    @property
    def origin(self) -> Any:
        """Another program than the function."""
        return self.word, tuple(p for p, _ in paths(self.values)), self.function.origin

    def put(self, given: Given) -> Given:
        """What is given, with the values."""
        raise NotImplementedError

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the values put in."""
        sites: set[Path] = set()
        operation = operation.but(**{self.field: (*getattr(operation.attitude, self.field), sites)})
        out = self.function.visit(operation, key, self.put(given), path, args, kwargs)
        _check_visited(f"{self.word} for {self.name}", self.values, {p[len(path) :] for p in sites}, out.choices)
        return out


@shows_wrapped
class Intervened(Put[P, R]):
    """A generative function with values in place of some of its sites; those from further outside win."""

    word, field = "do", "interventions"

    def put(self, given):
        """In place of what the sites draw."""
        return given._replace(fixed=nest(dict(paths(self.values)) | dict(paths(given.fixed or {}))))


@shows_wrapped
class Conditioned(Put[P, R]):
    """A generative function with some of its choices given for good."""

    word, field = "condition", "conditions"

    def put(self, given):
        """As observations are."""
        return given._replace(observed=merge(self.values, given.observed or {}))


def _check_visited(who, values, sites, choices):
    for p, _ in paths(values):
        if p not in sites:
            raise AddressError(unmatched(who, p, sites | {q for q, _ in paths(choices)}))


@shows_wrapped
class Overridden(Around[P, R]):
    """A generative function with estimators chosen from outside."""

    estimators: ByAddress

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the overrides in force."""
        with override(self.estimators, path) as rules:
            out = self.function.visit(operation, key, given, path, args, kwargs)
            rules.check_used(self.name, out.choices)
            return out
