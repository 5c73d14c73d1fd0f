"""The errors that a program can meet, one class for each kind of mistake.

Every text says what came, what was expected and what to write; where a site is concerned it names the
address. All of them derive from `TracegradError`, so one `except` catches the library's own.
"""


class TracegradError(Exception):
    """The base of every error that this library raises on purpose.

    Examples:
        >>> from tracegrad.transforms import TracegradError, expectation
        >>> try:
        ...     expectation(3.0)
        ... except TracegradError as error:
        ...     print(type(error).__name__)
        ObjectiveError
    """


class BiasedGradientError(TracegradError, TypeError):
    """The derivative that was asked for would be biased, so it is refused.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import sample
        >>> jax.grad(lambda p: 4.0 * sample(jax.random.key(0), dist.Bernoulli(p)))(0.25)
        Traceback (most recent call last):
            ...
        tracegrad...BiasedGradientError: The sample at ... was differentiated outside `expectation`...
    """


class HigherOrderError(TracegradError, TypeError):
    """A derivative of higher order than the gradient estimator at a site supports.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, mvd, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=mvd()))
        >>> jax.grad(jax.grad(f, argnums=1), argnums=1)(jax.random.key(0), 0.25)
        Traceback (most recent call last):
            ...
        tracegrad...HigherOrderError: ...first derivatives only...
    """


class EstimatorError(TracegradError, ValueError):
    """A gradient estimator that does not fit its distribution or its place in the program.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import reparam, sample
        >>> sample(jax.random.key(0), dist.Bernoulli(0.5), estimator=reparam(), label="coin")
        Traceback (most recent call last):
            ...
        tracegrad...EstimatorError: reparam() at 'coin': BernoulliProbs has no reparameterised sampler...
    """


class RandomKeyError(TracegradError, ValueError):
    """A random key that is missing, of the wrong kind, or shared by lanes that must differ.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import sample
        >>> key = jax.random.key(0)
        >>> jax.vmap(lambda m: sample(key, dist.Normal(m, 1.0)))(jax.numpy.zeros(3))
        Traceback (most recent call last):
            ...
        tracegrad...RandomKeyError: The sample at ... is under a `vmap` that maps its parameters but not its key...
    """


class NoRuleError(TracegradError, NotImplementedError):
    """A sample inside an operation that the transformation has no rule for.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample
        >>> @jax.custom_jvp
        ... def draw(key, m):
        ...     return sample(key, dist.Normal(m, 1.0))
        >>> _ = draw.defjvp(lambda primals, tangents: (draw(*primals), tangents[1]))
        >>> jax.grad(expectation(draw), argnums=1)(jax.random.key(0), 0.0)
        Traceback (most recent call last):
            ...
        tracegrad...NoRuleError: ...'custom_jvp_call'...Draw the value outside...
    """


class ObjectiveError(TracegradError, TypeError):
    """An objective whose output cannot be an expectation to differentiate.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample
        >>> expectation(lambda key, p: sample(key, dist.Bernoulli(p)))(jax.random.key(0), 0.25)
        Traceback (most recent call last):
            ...
        tracegrad...ObjectiveError: The objective has type int32[], which has no expectation to differentiate...
    """


class ArgumentError(TracegradError, TypeError):
    """An argument of a kind that cannot stand in its place.

    Examples:
        >>> import tracegrad as tg
        >>> tg.validated(abs)
        Traceback (most recent call last):
            ...
        tracegrad...ArgumentError: validated takes a generative function...
    """


class DiscontinuityWarning(UserWarning):
    """A reparameterised value reaches a discontinuity, whose share of the derivative its path misses.

    Examples:
        >>> import jax, warnings, numpyro.distributions as dist
        >>> from tracegrad.transforms import DiscontinuityWarning, expectation, sample
        >>> f = expectation(lambda key, m: jax.numpy.where(sample(key, dist.Normal(m, 1.0)) > 0.0, 1.0, 0.0))
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", DiscontinuityWarning)
        ...     jax.grad(f, argnums=1)(jax.random.key(0), 0.5)
        Traceback (most recent call last):
            ...
        tracegrad...DiscontinuityWarning: ...
    """


def name_of(label) -> str:
    """Print a label: a path of addresses as 'a/b', anything else as itself."""
    if isinstance(label, tuple):
        return repr("/".join(map(str, label))) if label else "an unnamed site"
    return repr(label)
