"""The errors of the language; those of the transformation are re-exported beside them."""

from .transforms import TracegradError


class AddressError(TracegradError, ValueError):
    """An address that is duplicate, missing, unknown, or used outside a generative function."""


class ChoiceError(TracegradError, ValueError):
    """A given choice of the wrong shape, type or support."""


class DistributionError(TracegradError, ValueError):
    """A distribution that cannot be made, or cannot be drawn from."""


class DensityError(TracegradError, ValueError):
    """A density that an algorithm cannot give, or that was asked for in part."""


class FitError(TracegradError, ValueError):
    """Arguments that `fit` cannot train with, or a run that stopped being finite."""


class SupportWarning(UserWarning):
    """A model is weighed at draws from a support that is larger than its own."""
