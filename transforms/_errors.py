"""The errors that a program can meet, one class for each kind of mistake.

Every text says what came, what was expected and what to write; where a site is concerned it names the
address. All of them derive from `TracegradError`, so one `except` catches the library's own.
"""


class TracegradError(Exception):
    """The base of every error that this library raises on purpose."""


class BiasedGradientError(TracegradError, TypeError):
    """The derivative that was asked for would be biased, so it is refused."""


class HigherOrderError(TracegradError, TypeError):
    """A derivative of higher order than the gradient estimator at a site supports."""


class EstimatorError(TracegradError, ValueError):
    """A gradient estimator that does not fit its distribution or its place in the program."""


class RandomKeyError(TracegradError, ValueError):
    """A random key that is missing, of the wrong kind, or shared by lanes that must differ."""


class NoRuleError(TracegradError, NotImplementedError):
    """A sample inside an operation that the transformation has no rule for."""


class ObjectiveError(TracegradError, TypeError):
    """An objective whose output cannot be an expectation to differentiate."""


class ArgumentError(TracegradError, TypeError):
    """An argument of a kind that cannot stand in its place."""


class DiscontinuityWarning(UserWarning):
    """A reparameterised value reaches a discontinuity, whose share of the derivative its path misses."""


def name_of(label) -> str:
    """Print a label: a path of addresses as 'a/b', anything else as itself."""
    if isinstance(label, tuple):
        return repr("/".join(map(str, label))) if label else "an unnamed site"
    return repr(label)
