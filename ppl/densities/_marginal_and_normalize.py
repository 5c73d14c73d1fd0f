"""Generative functions whose density is an estimate: `marginal` and `normalize`.

Two laws hold for a density mu, whatever the algorithm beneath:

- `simulate` gives choices x ~ mu and logp = log w with E[1/w | x] = 1/mu(x): the run that made x is part of w;
- `assess(x, key=key)` gives logp = log w with E[w] = mu(x).

So `log p(assess) - log q(simulate)` is a lower bound in expectation, and p / q is unbiased, only with these sides: what
is drawn anew is weighed by its own simulation, what is given by an assessment. Visits keep to it: an operation that
gives nothing at the addresses simulates, one that gives all of them assesses, and one that gives some is refused.

Source: Lew et al., Probabilistic Programming with Stochastic Probabilities, PLDI 2023.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from .._errors import AddressError, DensityError
from ..algorithms._base import Algorithm, Retained
from ..core._addresses import Path, Selection, as_selection, merge, name_them, nest, paths
from ..core._arguments import generative
from ..core._generative import GenerativeFunction
from ..core._operations import Assess, Generate, Given, Operation, Simulate
from ..core._target import Target, checked_target
from ..posteriors._fitted import Fitted
from ._estimated import Estimated


class Selected(Operation):
    """An operation whose weight is that of the selected choices, counted from the path where the visit began."""

    def __init__(self, selection: Selection, path: Path):
        self.selection = selection
        self.depth = len(path)

    def weighs(self, path, *, drawn):
        """Where selected."""
        return path[self.depth :] in self.selection


class Joint(Selected, Simulate):
    """Draw every value, and weigh the selected ones."""


class Weighing(Selected, Assess):
    """Take every value, and weigh the selected ones."""


class ByAlgorithm(Estimated):
    """A generative function whose density an algorithm estimates."""

    algorithm: eqx.AbstractVar[Algorithm]

    @property
    def indices(self):
        """Those of the algorithm."""
        return self.algorithm.indices


class Marginal(ByAlgorithm):
    """See `marginal`."""

    function: GenerativeFunction
    keep: Selection
    algorithm: Algorithm

    @property
    def name(self) -> str:
        """The name of what is marginalised."""
        return f"marginal({self.function.name})"

    @property
    def origin(self) -> Any:
        """That of what is marginalised, over the same addresses."""
        return type(self), tuple(self.keep.literal()), self.function.origin

    def draw(self, key, path, args, kwargs):
        """Draw jointly, and estimate the density of the kept choices with the rest retained."""
        run, given = jax.random.split(key)
        joint = Joint(self.keep, path)
        out, record = self.algorithm.visit(self.function, joint, run, Given(), path, args, kwargs)
        kept, rest = self._kept(out.choices), self._kept(out.choices, of=~self.keep)
        target = Target(self.function, args, kept, kwargs, path)
        retained = Retained(rest, out.logp, out.weight, record)
        return kept, self.algorithm.estimate_given(given, target, retained)

    def weigh(self, key, choices, path, args, kwargs):
        """Estimate the density of the kept choices."""
        return self.algorithm.estimate(key, Target(self.function, args, choices, kwargs, path)).log_z

    def shapes(self, path, args, kwargs):
        """The shapes of the kept choices."""
        return self._kept(jax.eval_shape(lambda k: self._simulated(k, path, args, kwargs), jax.random.key(0)))

    def _simulated(self, key, path, args, kwargs):
        return self.function.visit(Generate(), key, Given(), path, args, kwargs).choices

    def _kept(self, choices, of=None):
        selection = self.keep if of is None else of
        known = [p for p, _ in paths(choices)]
        self.keep.check(known, f"{self.name}, `keep`")
        found = nest({p: x for p, x in paths(choices) if p in selection})
        if not found and of is None:
            raise AddressError(f"{self.name}: `keep` selects none of its addresses. It samples at: {name_them(known)}.")
        return found


class Normalized(ByAlgorithm):
    """See `normalize`."""

    target: Target
    algorithm: Algorithm

    @property
    def name(self) -> str:
        """The name of the target's program."""
        return f"normalize({self.target.function.name})"

    @property
    def origin(self) -> Any:
        """That of the target's program."""
        return type(self), self.target.function.origin

    def posterior(self) -> Fitted:
        """The law of the algorithm's output, with all that a `Posterior` has."""
        return Fitted(self.target, self)

    def draw(self, key, path, args, kwargs):
        """Draw from what the algorithm ran; the density is gamma over its estimate of the integral."""
        run, pick = jax.random.split(key)
        estimate = self.algorithm.estimate(run, self._at(path, args, kwargs))
        latents, log_gamma = estimate.draw(pick)
        return latents, log_gamma - estimate.log_z

    def weigh(self, key, choices, path, args, kwargs):
        """Gamma at the choices, over the estimate of the integral with them retained."""
        target = self._at(path, args, kwargs)
        run, given = (None, None) if key is None else jax.random.split(key)
        observed = Selection(tuple(p for p, _ in paths(target.observed)))
        joint = Given(merge(target.observed, choices))
        out, record = self.algorithm.visit(
            target.function, Weighing(observed, path), run, joint, path, target.args, target.kwargs
        )
        log_z = self.algorithm.estimate_given(given, target, Retained(choices, out.logp, out.weight, record))
        return out.logp - log_z

    def shapes(self, path, args, kwargs):
        """The shapes of the latent choices."""
        return self._at(path, args, kwargs).latents()

    def _at(self, path, args, kwargs):
        if args or kwargs:
            raise AddressError(
                f"{self.name} takes no arguments: its target holds them. Make the target where they are known, "
                "`normalize(Target(model, args, observed), algorithm)`."
            )
        t = self.target
        return Target(t.function, t.args, t.observed, t.kwargs, path)


def marginal(function: GenerativeFunction, keep: Any, algorithm: Algorithm) -> Marginal:
    """The marginal of a generative function over the kept addresses: a generative function with an estimated density.

    The rest, u, is integrated out of p(x) = integral p(u, x) du by the algorithm: `simulate` draws (u, x) jointly and
    retains u, `assess(..., key=key)` draws fresh u given x. What it returns is the dict of the kept choices.

    Args:
        function: a generative function.
        keep: the addresses that stay: a name or pattern, a list or tuple of them, or a `select(...)`.
        algorithm: `importance(n)`, `exact()`, `forward_filter()`, `kalman()`, `smc(n)`, `sir(n, ...)` or one of your
            own, a subclass of `tracegrad.algorithms.Algorithm`.

    Returns:
        A generative function of the same arguments, over the kept addresses only.

    Raises:
        AddressError: `keep` selects nothing; an address to be assessed is missing.
        DensityError: some of the kept addresses are given and some are not; the algorithm cannot serve the function.
        RandomKeyError: assessed without a key, where the density is estimated.

    Source: Ranganath et al., Hierarchical Variational Models, 2016; Lew et al., Probabilistic Programming with
    Stochastic Probabilities, PLDI 2023.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def noisy(scale):
        ...     u = tg.sample("u", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(u, scale))
        >>> q = tg.marginal(noisy, keep="x", algorithm=tg.importance(5))
        >>> sorted(q.simulate(jax.random.key(0), 0.5).choices)
        ['x']
        >>> logp, _ = q.assess({"x": 1.0}, 0.5, key=jax.random.key(1))
    """
    generative("marginal", function, error=AddressError)
    _check_algorithm("marginal", algorithm)
    # A tuple of names is several addresses here; one path of several components is written 'a/b'.
    keep = list(keep) if isinstance(keep, tuple) else keep
    return Marginal(function=function, keep=as_selection(keep), algorithm=algorithm)


def normalize(target: Target, algorithm: Algorithm) -> Normalized:
    """The posterior of a target as a generative function over its latent addresses, with an estimated density.

    The law is that of the algorithm's output (for importance resampling with n particles pi_n, not pi itself), and the
    two laws of densities hold for it. What it returns is the dict of the latent choices. It takes no arguments.

    Args:
        target: a `Target`.
        algorithm: `sir(n, ...)`, `importance(n)`, `smc(n)`, `exact()`, `forward_filter()`, `kalman()` or one of your
            own, a subclass of `tracegrad.algorithms.Algorithm`.

    Returns:
        A generative function over the latent addresses.

    Raises:
        DensityError: some of the latent addresses are given and some are not; the algorithm cannot serve the target.
        RandomKeyError: assessed without a key, where the density is estimated.

    Source: Lew et al., Probabilistic Programming with Stochastic Probabilities, PLDI 2023.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> posterior = tg.normalize(target, tg.sir(20, proposal=guide, proposal_args=(1.0,)))
        >>> sorted(posterior.simulate(jax.random.key(0)).choices)
        ['z']
    """
    checked_target("normalize", target, AddressError)
    _check_algorithm("normalize", algorithm)
    return Normalized(target=target, algorithm=algorithm)


def _check_algorithm(what, algorithm):
    if not isinstance(algorithm, Algorithm):
        raise DensityError(f"{what} takes an algorithm like `importance(5)`, and got {algorithm!r}.")
