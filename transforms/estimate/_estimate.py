"""How an expectation runs its program for the estimate with its derivative.

    estimate = sum_i box_i-weighted outputs + control variates + forks

Direct sites give score terms: each multiplies, by its magic box, only the parts of the outputs that depend on its draw
(`_credit_plan`), or all of them where there is no such plan. Forking sites give alternatives with coefficients that are
zero in value: the program runs again with alternatives put in place (`_sum`), and what the objective changes by
multiplies the coefficient. Enumerated sites run the rest of the program under `vmap` over their support.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import name_of
from .._estimator import Direct, Fork
from .._pytree import stop_gradient
from ..analysis._running_lanes import Running, running
from ..estimators._reinforce import AutoReinforce, NoLevelError
from ..forks._by_importance import ByImportance
from ..forks._groups import groups_of
from ..forks._replay import Options, average
from ..forks._sum import Forked, add_forks
from ..program._bulk_noise import scan_after_noise
from ..program._interpreter import Mode, walk
from ..program._noise_first import Noise
from ..program._plan import Plan, plan_of, read
from ..program._site import rebind
from ..program._site_terms import direct, enumerated, fork, magic_box
from ._credit_plan import CreditPlan
from ._credited_loop import run_loop, run_tail
from ._ledger import Ledger, Ledgers
from ._scores import Scores


class Estimating(Mode):
    """Values with derivatives: every site by its estimator.

    A program keeps the scores of its draws apart. Inside loops it is credited as well; a branch, a checkpoint or a
    `while_loop`, and every loop where there is no `credit`, is one node with one score.
    """

    def __init__(
        self,
        options: Options,
        key: Any,
        witness: list,
        *,
        credit: CreditPlan | None = None,
        scores: Scores | None = None,
        running: tuple[Running, ...] = (),
        noise: Noise | None = None,
    ):
        self.options = options
        self.sized = isinstance(options.forks, ByImportance)
        self.records = Ledgers(sized=self.sized)
        self.key = key
        self.witness = witness
        self.credit = credit
        self.scores = Scores() if scores is None else scores
        self.running = running
        self.noise = noise or {}
        self.forked: list[Forked] = []

    def inside(self, credit: CreditPlan | None = None, scores: Scores | None = None) -> Estimating:
        """The mode for a program inside this one, with scores of its own."""
        return Estimating(
            self.options,
            self.key,
            self.witness,
            credit=credit,
            scores=scores,
            running=self.running,
            noise=self.noise,
        )

    def among(self, loop, going):
        """Draws of lanes that are done contribute nothing."""
        lanes = (*self.running, running(going, loop))
        return Estimating(self.options, self.key, self.witness, running=lanes)

    def control(self, step, operands, alternative):
        """Loops are credited inside; the score of any other control flow is one more of this program's."""
        if self.credit is not None and id(step.eqn) in self.credit.loops:
            return run_loop(self, self.credit.loops[id(step.eqn)], step, operands)
        values, record = super().control(step, operands, alternative)
        if record.score is not None or self.credit is not None:
            self.scores.sources.append(jnp.zeros((), float) if record.score is None else record.score)
        return values, record._replace(score=None)

    def inner(self, jaxpr, operands, alternative):
        """A body or a branch: its record has the score of all its draws."""
        inside, plan = self.inside(), plan_of(jaxpr)
        outs, record = walk(plan, dict(zip(plan.inputs, operands, strict=True)), inside, top=False)
        return outs, record._replace(score=inside.scores.whole())

    def before_fork(self, plan, env, index):
        """Remember where a group of forks begins: replays start there."""
        if index in groups_of(plan):
            self.forked.append(Forked(index, {v: env[v] for v in plan.reads_from(index)}, self.noise))

    def scan(self, loop, step, init, xs):
        """With the noise of all steps drawn before the first."""
        return scan_after_noise(loop, step, init, xs)

    def draw(self, step, operands, alternative):
        """Draw by the site's estimator."""
        site, lanes, kind = step.site, step.lanes, step.site.prototype()
        if isinstance(kind, Direct):
            return self._direct(step, operands)
        if isinstance(kind, Fork):
            made = self.noise.get(id(step), ())
            values, _, coefficients, sizes = fork(site, operands, lanes, made, sized=self.sized)
            row = sizes.reshape(-1) if self.sized else None
            return values, Ledger(coefficients=coefficients.reshape(-1), sizes=row)
        return rebind(operands, site, lanes), Ledger()  # spent: what it contributes has its derivative already

    def _direct(self, step, operands):
        """Draw, and add the score to the others; of lanes in a loop only those that go on count."""
        _check_level(step.site)
        values, score, baseline, extra = direct(step.site, operands, step.lanes, self.noise.get(id(step), ()))
        for lanes in self.running:
            score, extra = lanes.keep(score, step.eqn), lanes.keep(extra, step.eqn)
        control = None if baseline is None else jnp.sum(baseline * (1.0 - magic_box(score)))
        if extra is not None:
            extra = jnp.sum(extra - lax.stop_gradient(extra))
            control = extra if control is None else control + extra
        if score is not None:
            self.scores.sources.append(score)
        return values, Ledger(control=control)

    def enumerate(self, step, operands, resume):
        """Sum the estimates of the rest of the program over the support."""
        values, probabilities = enumerated(step.site, operands)
        return average(jax.vmap(resume)(values), probabilities, self.options.objectives)

    def finish(self, plan, env, start, alternative):
        """The estimate of the rest of the program; with credit it depends on the scores so far."""
        scores = None if self.credit is None else self.scores.copy()
        return estimate(plan, env, start, self.inside(self.credit, scores))

    def complete(self, plan, env):
        """The outputs; with credit those of the tail from boxed values."""
        outs = read(env, plan.outputs)
        if self.credit is None:
            return outs
        tail = iter(run_tail(self.credit, env, self.scores))
        return [next(tail) if b else y for y, b in zip(outs, self.credit.boxed, strict=True)]


def _check_level(site):
    """Refuse a baseline that nobody carries: without it there would be none, in silence."""
    if isinstance(site.prototype(), AutoReinforce) and not site.estimator.count:
        raise NoLevelError(
            f"reinforce(baseline='auto') at {name_of(site.label)}: its baseline is learned by `fit`, and here a "
            "derivative is taken outside of `fit`, or by an objective that credits its draws itself (`leave_one_out`, "
            "`vimco`), where nobody carries it. Write `reinforce(average.value)` with a `MovingAverage` that your loop "
            "hands on, or `reinforce()`."
        )


def estimate(plan: Plan, env: dict, start: int, mode: Estimating) -> list:
    """Run the rest of a program, and return its outputs with the derivatives of their expectations."""
    outs, ledger = walk(plan, env, mode, start)
    n = mode.options.objectives
    ys, score = outs[:n], mode.scores.whole() if mode.credit is None else None
    if score is not None:
        ys = [y * magic_box(score).astype(y.dtype) for y in ys]
    if ledger.control is not None:
        ys = [y + ledger.control.astype(y.dtype) for y in ys]
    if mode.forked:
        ys = add_forks(ys, plan, mode, start, ledger.coefficients, ledger.sizes)
    return [*ys, *map(stop_gradient, outs[n:])]
