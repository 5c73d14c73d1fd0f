"""How an expectation runs its program for the estimate with its derivative.

    estimate = sum_i box_i-weighted outputs + control variates + forks

Direct sites give score terms: the outputs are multiplied by the magic box of their sum. Forking sites give
alternatives with coefficients that are zero in value: the program runs again with alternatives put in place
(`_sum`), and what the objective changes by multiplies the coefficient. Enumerated sites run the rest of the
program under `vmap` over their support.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._estimator import Direct, Fork
from .._pytree import stop_gradient
from ..analysis._running_lanes import Running, running
from ..forks._replay import Options, average
from ..forks._sum import FEW, Forked, add_forks
from ..program._interpreter import Mode, walk
from ..program._plan import Plan
from ..program._site import rebind
from ..program._site_terms import direct, enumerated, fork, magic_box


class Ledger(NamedTuple):
    """What the draws of a run recorded: summed score terms, summed control variates, and fork coefficients in order.

    None stands for nothing recorded, so that programs without a kind of estimator carry no trace of it.
    """

    score: jax.Array | None = None
    control: jax.Array | None = None
    coefficients: jax.Array | None = None


class Estimating(Mode):
    """Values with derivatives: every site by its estimator."""

    def __init__(self, options: Options, key: Any, witness: list):
        self.options = options
        self.key = key
        self.witness = witness
        self.forked: list[Forked] = []
        self.running: tuple[Running, ...] = ()

    def among(self, loop, going):
        """Draws of lanes that are done contribute nothing."""
        inside = Estimating(self.options, self.key, self.witness)
        inside.running = (*self.running, running(going, loop))
        return inside

    def sample(self, step, operands, cursor):
        """Inside such a loop it matters which draw this is."""
        if not self.running:
            return super().sample(step, operands, cursor)

        def keep(term):
            for lanes in self.running:
                term = lanes.keep(term, step.eqn)
            return term

        params = step.eqn.params
        values, score, record = self.contribution(params["site"], operands, params["lanes"], keep)
        return values, record if score is None else record._replace(score=score.sum())

    def zero(self):
        """No score, no control variate, no fork."""
        return Ledger(jnp.zeros((), float), jnp.zeros((), float), None)

    def join(self, records):
        """Scores and control variates add up, coefficients are numbered in order."""
        records = [r for r in records if r is not None]
        if not records:
            return Ledger()
        scores, controls, coefficients = ([x for x in field if x is not None] for field in zip(*records, strict=True))
        return Ledger(
            sum(scores[1:], scores[0]) if scores else None,
            sum(controls[1:], controls[0]) if controls else None,
            jnp.concatenate(coefficients) if coefficients else None,
        )

    def stack(self, record):
        """The steps of a loop: scores add up, coefficients are numbered step by step."""
        score, control, coefficients = record
        return Ledger(
            None if score is None else score.sum(),
            None if control is None else control.sum(),
            None if coefficients is None else coefficients.reshape(-1),
        )

    def pad(self, record, width):
        """Branches have records of one shape; the narrower ones have coefficients without derivative."""
        zero = jnp.zeros((), float)
        coefficients = jnp.zeros((0,)) if record.coefficients is None else record.coefficients
        return Ledger(
            zero if record.score is None else record.score,
            zero if record.control is None else record.control,
            jnp.pad(coefficients, (0, width - coefficients.shape[0])) if width else None,
        )

    def before_fork(self, plan, env, index):
        """Remember where alternatives are named: replays start there."""
        few = len(self.forked) < FEW
        self.forked.append(Forked(index, {v: env[v] for v in plan.reads_from(index)} if few else None))

    def draw(self, site, operands, lanes, cursor):
        """Draw by the site's estimator."""
        values, score, record = self.contribution(site, operands, lanes)
        return values, record if score is None else record._replace(score=score.sum())

    def contribution(self, site, operands, lanes, keep=lambda term: term):
        """What a draw contributes: its values, its scores (lanes and elements apart), and the rest of its record.

        `keep` leaves of a score or a control what counts.
        """
        kind = site.prototype()
        if isinstance(kind, Direct):
            values, score, baseline, extra = direct(site, operands, lanes)
            score, extra = keep(score), keep(extra)
            control = None if baseline is None else jnp.sum(baseline * (1.0 - magic_box(score)))
            if extra is not None:
                extra = jnp.sum(extra - lax.stop_gradient(extra))
                control = extra if control is None else control + extra
            return values, score, Ledger(control=control)
        if isinstance(kind, Fork):
            values, _, coefficients = fork(site, operands, lanes)
            return values, None, Ledger(coefficients=coefficients.reshape(-1))
        return rebind(operands, site, lanes), None, Ledger()  # spent: what it contributes has its derivative already

    def enumerate(self, site, operands, resume):
        """Sum the estimates of the rest of the program over the support."""
        values, probabilities = enumerated(site, operands)
        return average(jax.vmap(resume)(values), probabilities, self.options.objectives)

    def finish(self, plan, env, start, cursor):
        """The estimate of the rest of the program."""
        return estimate(plan, env, start, Estimating(self.options, self.key, self.witness))


def estimate(plan: Plan, env: dict, start: int, mode: Estimating) -> list:
    """Run the rest of a program, and return its outputs with the derivatives of their expectations."""
    outs, ledger = walk(plan, env, mode, start)
    n = mode.options.objectives
    ys = outs[:n]
    if ledger.score is not None:
        ys = [y * magic_box(ledger.score).astype(y.dtype) for y in ys]
    if ledger.control is not None:
        ys = [y + ledger.control.astype(y.dtype) for y in ys]
    if mode.forked:
        ys = add_forks(ys, plan, mode, start, ledger.coefficients)
    return [*ys, *map(stop_gradient, outs[n:])]
