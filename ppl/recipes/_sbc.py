"""Simulation-based calibration: does a procedure find the posteriors that it says it finds?

Draw latents from the prior and data given them, run the procedure on the data, and ask which place the true value takes
among L draws of the posterior. Where the procedure is right all L + 1 places are equally likely, whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._errors import AddressError, ChoiceError
from .._progress import ProgressLine
from ..core._addresses import Selection, as_selection, merge, name_them, nest, paths, show
from ..core._arguments import count, generative
from ..core._generative import GenerativeFunction
from ..core._operations import Simulate
from ..core._overrides import isolated
from ..core._target import Target
from ..posteriors._posterior import Posterior
from ..posteriors._summary import scalars
from ..posteriors._visits import Predict, as_many_as_fit, lanes
from ..transforms import ArgumentError
from ..transforms._internal import check_key, flag, function, real, table

LOG_DENSITY = "log density"
"""The quantity, beside the latents, whose place is asked for: it tells when a procedure has not looked at the data."""
COMPONENTS = 4
"""The polynomials in the place that are tested: location, spread, and two more for other shapes."""
SHOWN = 40
"""So many quantities are printed, the least likely first."""
BINS = 20
"""Bars of a histogram, where the places can be divided into so many."""
PANELS = 24
"""Histograms in a plot."""
BAND = 2.576
"""Standard errors on both sides that hold 99 % of the heights of a bar."""


class _Prior(Simulate):
    """Draw every value; deterministic ones are on record."""

    note = Predict.note


# ---- the test -------------------------------------------------------------------------------------------------------


def _polynomials(places: int) -> np.ndarray:
    """Polynomials of degree 1 to 4 in the place, of mean 0 and variance 1 and uncorrelated: (places, degree)."""
    degree = min(COMPONENTS, places - 1)
    grid = np.linspace(-1.0, 1.0, places)
    basis = np.linalg.qr(np.vander(grid, degree + 1, increasing=True))[0] * math.sqrt(places)
    return (basis * np.sign(basis[-1]))[:, 1:]  # Each is positive at the last place.


def _upper_tail(x: float, degrees: int) -> float:
    """The probability that a chi-squared variable is above x."""
    return float(jax.scipy.special.gammaincc(degrees / 2.0, x / 2.0))


def _row(ranks: np.ndarray, draws: int) -> dict[str, float]:
    """Neyman's smooth test of one quantity's places."""
    scores = _polynomials(draws + 1)[ranks].sum(axis=0) / math.sqrt(max(1, len(ranks)))
    return {
        "location": float(scores[0]),
        "spread": float(scores[1]) if len(scores) > 1 else 0.0,
        "statistic": float(scores @ scores),
        "p": _upper_tail(float(scores @ scores), len(scores)),
    }


@dataclass(frozen=True)
class Calibration:
    """What `sbc` found. It is true when it passed, prints as a table, and `plot()` draws the histograms.

    Attributes:
        ranks: by quantity ("a", "b[0,2]", "log density"), how many of the draws lay below the true value in each
            simulation: integers from 0 to `draws`, shape (n,).
        draws: draws of each posterior.
        level: the probability that a right procedure does not pass.

    Examples:
        >>> import numpy as np, tracegrad as tg
        >>> uniform, low = np.arange(200) % 100, np.arange(200) % 50
        >>> tg.Calibration({"a": uniform}, 99).passed, tg.Calibration({"a": uniform, "b": low}, 99).passed
        (True, False)
        >>> tg.Calibration({"b": low}, 99).words("b")
        'the draws lie too high'
    """

    ranks: Mapping[str, np.ndarray]
    draws: int
    level: float = 0.01

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """By quantity: "location" and "spread", standard normal where the procedure is right, "statistic" and "p"."""
        return {name: _row(np.asarray(ranks), self.draws) for name, ranks in self.ranks.items()}

    @property
    def passed(self) -> bool:
        """Whether no quantity is less likely than the level, divided by the number of them."""
        return all(row["p"] >= self.level / len(self.ranks) for row in self.rows.values())

    def __bool__(self):
        return self.passed

    def words(self, quantity: str) -> str:
        """What the ranks of a quantity say, in words."""
        row = self.rows[quantity]
        if row["p"] >= self.level / len(self.ranks):
            return "uniform"
        if abs(row["location"]) >= abs(row["spread"]):
            return "the draws lie too low" if row["location"] > 0 else "the draws lie too high"
        return "the draws lie too close together" if row["spread"] > 0 else "the draws lie too far apart"

    def __str__(self):
        rows = sorted(self.rows.items(), key=lambda row: row[1]["p"])
        columns = ("location", "spread", "statistic", "p")
        cells = [(name, *(f"{row[c]:.3g}" for c in columns), self.words(name)) for name, row in rows[:SHOWN]]
        more = [f"... and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        n = len(next(iter(self.ranks.values()), ()))
        verdict = "passed" if self.passed else "FAILED: these are not the posteriors"
        head = f"{verdict}, {n} simulations, {self.draws} draws of each posterior, level {self.level:g}"
        return "\n".join([head, table(("", *columns, ""), cells), *more])

    __repr__ = __str__

    def plot(self) -> Any:
        """Draw a histogram of the ranks of each quantity, by matplotlib, with the band that holds 99 % of its bars.

        Returns:
            The figure; of more than 24 quantities it has the least likely ones.
        """
        import matplotlib.pyplot as plt

        names = sorted(self.ranks, key=lambda name: self.rows[name]["p"])[:PANELS]
        columns = min(4, len(names))
        figure, axes = plt.subplots(-(-len(names) // columns), columns, squeeze=False, layout="constrained")
        for ax in axes.flat[len(names) :]:
            ax.set_axis_off()
        bins = max(b for b in range(1, BINS + 1) if (self.draws + 1) % b == 0)
        for ax, name in zip(axes.flat, names, strict=False):
            ranks = np.asarray(self.ranks[name])
            mean = len(ranks) / bins
            error = BAND * math.sqrt(mean * (1.0 - 1.0 / bins))
            ax.axhspan(max(0.0, mean - error), mean + error, alpha=0.3, color="grey")
            ax.hist(ranks, bins=np.linspace(-0.5, self.draws + 0.5, bins + 1))
            ax.set(title=name, xlabel="rank", yticks=[])
        return figure


# ---- the simulations ------------------------------------------------------------------------------------------------


class _Simulation:
    """One simulation in three parts: the truth and the data, the posterior's draws, the ranks."""

    def __init__(self, target: Target, observed: Selection, procedure: Callable, draws: int):
        self.target, self.observed, self.procedure, self.draws = target, observed, procedure, draws

    def truth(self, key):
        """Latents with deterministic values, and the data."""
        with isolated():
            out = self.target.visit(_Prior(), key)
        self.observed.check([p for p, _ in paths(out.choices)], "sbc: `observed`")
        data = nest({p: x for p, x in paths(out.choices) if p in self.observed})
        latents = nest({p: x for p, x in paths(out.choices) if p not in self.observed})
        return latents, out.records, data

    def drawn(self, key, data):
        """Draws of the posterior that the procedure finds."""
        run, draw = jax.random.split(key)
        posterior = self.procedure(run, self.conditioned(data))
        if not isinstance(posterior, Posterior):
            raise ArgumentError(
                f"sbc: the procedure must return a posterior (`vi`, `nuts`, `family.posterior(params)`, ...), and "
                f"returned {type(posterior).__name__}."
            )
        return posterior.sample(draw, self.draws)

    def conditioned(self, data) -> Target:
        """The target with the data."""
        return Target(self.target.function, self.target.args, data, self.target.kwargs)

    def ranks(self, key, latents, records, data, drawn):
        """The rank of every scalar quantity, nested as the choices are, and whether all draws are finite."""
        truth, have = dict(paths(merge(latents, records))), dict(paths(drawn))
        lacking = [p for p in truth if p not in have]
        if lacking:
            raise AddressError(
                f"sbc: the posterior of the procedure has no draws at {show(lacking[0])}. It has: {name_them(have)}."
            )
        ties, density = jax.random.split(key)
        out = {p: _rank(jax.random.fold_in(ties, i), x, have[p]) for i, (p, x) in enumerate(truth.items())}
        target, keys = self.conditioned(data), jax.random.split(density, self.draws + 1)
        of_draws = jax.vmap(lambda k, z: target.log_prob(z, key=k))(
            keys[1:], nest({p: have[p] for p, _ in paths(latents)})
        )
        last = _rank(jax.random.fold_in(ties, len(truth)), target.log_prob(latents, key=keys[0]), of_draws)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in have.values()]))
        return nest(out), last, finite

    def whole(self, key):
        """All three, in one program."""
        simulate, run, rank = jax.random.split(key, 3)
        latents, records, data = self.truth(simulate)
        return self.ranks(rank, latents, records, data, self.drawn(run, data))

    def one_by_one(self, keys, *, progress):
        """All three for each key in turn, the procedure outside of any compiled program."""
        truth_of, ranks_of = jax.jit(self.truth), jax.jit(self.ranks)
        bar, found = ProgressLine(len(keys), show=progress), []
        for i, key in enumerate(keys):
            simulate, run, rank = jax.random.split(key, 3)
            latents, records, data = truth_of(simulate)
            found.append(ranks_of(rank, latents, records, data, self.drawn(run, data)))
            bar.tell(i + 1, "simulations")
        return jax.tree.map(lambda *xs: jnp.stack(xs), *found)


def _rank(key, truth, draws):
    """How many draws lie below the truth, those that are the same at random on either side."""
    draws = jnp.asarray(draws)
    truth = jnp.broadcast_to(jnp.asarray(truth), draws.shape[1:])
    below, same = jnp.sum(draws < truth[None], axis=0), jnp.sum(draws == truth[None], axis=0)
    return below + jax.random.randint(key, below.shape, 0, same + 1)


def _traceable(simulation: _Simulation, keys) -> bool:
    """Whether the procedure can be traced; one that looks at values cannot."""
    try:
        jax.eval_shape(simulation.whole, keys[0])
    except Exception:  # Whatever it is: if it is an error, a run outside of tracing raises it again.
        return False
    return True


def sbc(
    model: GenerativeFunction,
    args: Any = (),
    *,
    observed: Any,
    procedure: Callable[[Key[Array, ""], Target], Posterior],
    key: Key[Array, ""],
    n: int = 200,
    draws: int = 99,
    level: float = 0.01,
    loop: bool = False,
    progress: bool = True,
) -> Calibration:
    """Simulation-based calibration of a procedure that makes posteriors, for any model that can be simulated.

    n times latents and data are drawn from the model, the procedure is run on the data, and every true scalar is ranked
    among draws of the posterior: latents, deterministic values, and the log density of the joint. Where the procedure
    is right the ranks are uniform. That is tested for each quantity by Neyman's smooth test, whose four components
    (polynomials in the rank, of location, spread and two further shapes) are together chi-squared with 4 degrees of
    freedom, at the level divided by the number of quantities. Of one latent, standard deviations that are 20 % too
    small are seen with probability 0.86 at n = 200 and 0.99 at n = 500, those 20 % too large with 0.4 and 0.97; of
    three latents, all off in the same way, both with 0.99 at n = 200.

    Args:
        model: a generative function; a `factor` or a scale in it is refused, as its prior cannot be drawn from.
        args: its arguments, a tuple; what is not a tuple is the only argument.
        observed: the addresses of the data: a pattern or a list of them, as for `select`.
        procedure: `procedure(key, target) -> posterior`: `lambda key, target: tg.nuts(target, key=key)`, say.
        key: one typed key.
        n: the number of simulations.
        draws: draws of each posterior; of Markov chains, draws apart from each other (some of all are taken).
        level: the probability that a right procedure does not pass.
        loop: whether to run the procedure on one data set after the other in Python. Otherwise that is done only where
            it cannot be traced, and all data sets are lanes of one compiled program. (`vi` and `nuts` can be.)
        progress: whether to show a line, in such a loop.

    Returns:
        A `Calibration`: `passed`, `ranks`, `plot()`; it prints as a table.

    Raises:
        AddressError: `observed` selects nothing; the posterior has no draws at a latent.
        ArgumentError: the procedure returns no posterior.
        ChoiceError: draws of a posterior are not finite.
        DensityError: the model cannot be simulated.

    Source: Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018; Modrak et
    al., Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities, 2023; Neyman,
    Smooth Test for Goodness of Fit, 1937.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> exact = tg.gen(lambda x: tg.sample("z", tg.dist.Normal(x / 2.0, 0.5**0.5)))
        >>> procedure = lambda key, target: tg.Fitted(target, exact, target.observed["x"])
        >>> tg.sbc(model, observed="x", procedure=procedure, key=jax.random.key(0)).passed
        True
    """
    check_key(key, "sbc")
    target = Target(generative("sbc", model), args)
    function("sbc", "a procedure(key, target)", procedure, ArgumentError)
    n, draws = count("sbc", "n", n), count("sbc", "draws", draws)
    real("sbc", "level", level, ChoiceError, "between 0 and 1", lambda x: (x > 0) & (x < 1))
    loop, progress = flag("sbc", "loop", loop, ArgumentError), flag("sbc", "progress", progress, ArgumentError)
    simulation = _Simulation(target, as_selection(observed), procedure, draws)
    keys = jax.random.split(key, n)
    size = jax.eval_shape(simulation.truth, keys[0])  # What is wrong with the model itself is said here.
    if loop or not _traceable(simulation, keys):
        ranks, density, finite = simulation.one_by_one(keys, progress=progress)
    else:
        lead = jax.ShapeDtypeStruct((draws,), jnp.int32)
        chunk = as_many_as_fit([size] * draws + [lead], n)
        ranks, density, finite = lanes(simulation.whole, keys, chunk)
    bad = n - int(np.sum(np.asarray(finite)))
    if bad:
        raise ChoiceError(f"sbc: the draws of {bad} of {n} posteriors are not finite, so that they have no ranks.")
    flat = {name: x.astype(int) for name, x in scalars(ranks, 1)}
    return Calibration(flat | {LOG_DENSITY: np.asarray(density)}, draws, level)
