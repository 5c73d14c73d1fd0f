"""The errors of the language; those of the transformation are re-exported beside them."""

from __future__ import annotations

from typing import Any

from .transforms import TracegradError


class AddressError(TracegradError, ValueError):
    """An address that is duplicate, missing, unknown, or used outside a generative function.

    Examples:
        >>> import tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("heads", tg.dist.Bernoulli(p)))
        >>> coin.assess({"head": 1}, 0.5)
        Traceback (most recent call last):
            ...
        tracegrad...AddressError: assess: the choice at 'heads' is missing (a BernoulliProbs)...
    """


class ChoiceError(TracegradError, ValueError):
    """A given choice of the wrong shape, type or support.

    Examples:
        >>> import tracegrad as tg
        >>> wait = tg.gen(lambda: tg.sample("t", tg.dist.Exponential(1.0)))
        >>> wait.assess({"t": -1.0})
        Traceback (most recent call last):
            ...
        tracegrad...ChoiceError: The choice at 't' (a Exponential) is outside the support...
    """


class DistributionError(TracegradError, ValueError):
    """A distribution that cannot be made, or cannot be drawn from.

    Examples:
        >>> import jax, tracegrad as tg
        >>> wide = tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0j)))
        >>> wide.simulate(jax.random.key(0))
        Traceback (most recent call last):
            ...
        tracegrad...DistributionError: ...'z'...
    """


class DensityError(TracegradError, ValueError):
    """A density that an algorithm cannot give, or that was asked for in part.

    Examples:
        >>> import tracegrad as tg
        >>> @tg.gen
        ... def noisy():
        ...     tg.sample("x", tg.dist.Normal(tg.sample("u", tg.dist.Normal(0.0, 1.0)), 1.0))
        >>> tg.marginal(noisy, "x", tg.exact()).assess({"x": 1.0})
        Traceback (most recent call last):
            ...
        tracegrad...DensityError: The latent at 'u' (Normal) has no finite support, so it cannot be enumerated. Write...
    """


class FitError(TracegradError, ValueError):
    """Arguments that `fit` cannot train with, or a run that stopped being finite.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, tracegrad as tg
        >>> tg.fit(lambda key, w: jnp.log(w), -1.0, optax.sgd(0.1), key=jax.random.key(0), steps=1)
        Traceback (most recent call last):
            ...
        tracegrad...FitError: fit: the objective is nan at step 0, first in `log`...

    Attributes:
        fit: the last good `Fit` of a run that stopped being finite, from before the step that went bad; None where
            there is none.
    """

    def __init__(self, text: str, fit: Any = None):
        super().__init__(text)
        self.fit = fit


class CheckpointError(FitError):
    """A file that is no kept fit, that is damaged, or that is of another run.

    Examples:
        >>> import pathlib, tempfile, optax, tracegrad as tg
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
        >>> _ = path.write_text("milk, bread")
        >>> tg.load_fit(path, like={"w": 1.0}, optimizer=optax.sgd(0.1))
        Traceback (most recent call last):
            ...
        tracegrad...CheckpointError: ...notes.txt is not a file that `Fit.save` wrote...

    Attributes:
        damaged: whether the file itself is bad (cut short, altered, foreign), and not merely of another run.
    """

    def __init__(self, text: str, *, damaged: bool = False):
        super().__init__(text)
        self.damaged = damaged


class SupportWarning(UserWarning):
    """A model is weighed at draws from a support that is larger than its own.

    Examples:
        >>> import jax, warnings, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("s", tg.dist.Exponential(1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("s", tg.dist.Normal(m, 1.0)))
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", tg.SupportWarning)
        ...     tg.elbo(model, guide, {"x": 2.0})(jax.random.key(0), (), (1.0,))
        Traceback (most recent call last):
            ...
        tracegrad...SupportWarning: ...
    """
