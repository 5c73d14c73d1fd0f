"""What `vi` returns: a fitted family, whose draws are corrected by importance weights where those can be relied on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ..algorithms._base import at_index, log_mean_exp
from ..auto._family import Family, Guide
from ..auto._nested import Nested, nested
from ..core._addresses import Choices
from ..core._arguments import count
from ..posteriors._doubts import MENDED, RELIABLE, Corrections, corrections, fit_doubts, k_hat_or_none, weights_doubts
from ..posteriors._fitted import WEIGHED, Fitted
from ..posteriors._importance_sampling import WeightedDraws
from ..posteriors._posterior import asked, key_of_summary
from ..posteriors._summary import Summary, summarised
from ..posteriors._visits import with_deterministics

FEWEST = 1000
"""Proposals at least, of which draws are picked: the weights of few are noise."""
SPARE = 2.0
"""So many even ones the proposals of a draw are worth, so that hardly any is picked twice."""
MOST = 50
"""Proposals of a draw at most."""
ROUNDS, EVEN = 5, 0.5
"""Proposals are matched to the moments of weighted ones so often at most, until they are worth such a share of them."""
UNEVEN = 0.2
"""Proposals of a normal that are worth a smaller share are followed by those of a richer kind, which cost more."""


class Proposal(NamedTuple):
    """A family at some parameters, and draws of it with their weights."""

    family: Family
    params: Any
    weighted: WeightedDraws

    @property
    def ess(self) -> float:
        """How many even draws the weighted ones are worth."""
        return float(self.weighted.ess)


class Judgement(NamedTuple):
    """What weights said of a fit: their k-hat, the log evidence, and if they correct its draws, by which proposals.

    `proposals` is how many there are for each draw, 0 where nothing is corrected; `by` is what they are of.
    """

    k_hat: float | None = None
    log_evidence: Any = None
    proposals: int = 0
    by: Proposal | None = None


class Variational(Fitted):
    """What `vi` returns: a `Fitted` posterior that knows how it was made.

    Where importance weights can be relied on, its draws, its density and its summary are corrected by them; the family
    itself is then `posterior.family.posterior(posterior.params)`.

    Attributes:
        family: the family that was fitted.
        history: the ELBO at each step, shape (steps,).
        report: what was done, in words, and what is to be made of it.
        log_evidence: the log of the evidence, as the weights estimate it; None where there were none.
        corrected: whether draws are corrected by importance weights.
    """

    family: Family
    history: Float[Array, " steps"]
    report: str = eqx.field(static=True)
    weights_k_hat: float | None
    log_evidence: Any
    proposals: int = eqx.field(static=True)
    proposal: Guide
    proposal_args: tuple

    def __init__(self, family: Family, params: Mapping, history: Any, report: str, judged: Judgement):
        super().__init__(family.space.target, family.guide, (params,))
        self.family, self.history, self.report = family, history, report
        self.weights_k_hat, self.log_evidence, self.proposals = judged[:3]
        by = judged.by
        self.proposal = by.family.guide if by else family.guide
        self.proposal_args = (by.params,) if by else self.args

    @property
    def corrected(self) -> bool:
        """Whether draws are corrected by importance weights."""
        return self.proposals > 0

    def latents(self, key: Key[Array, ""], n: int) -> Choices:
        """Draws from the family, or where they are corrected proposals that are picked by weight."""
        if not self.corrected:
            return super().latents(key, n)
        n, (draw, pick) = asked(self, "latents", key, n), jax.random.split(key)
        pool = self.weighted(draw, max(FEWEST, n * self.proposals))
        return at_index(pool.choices, picked(pick, pool.log_weights, n))

    def log_density(self, latents: Choices, key: Any = None) -> Float[Array, ""]:
        """That of the family; corrected, the density of the target over the evidence."""
        if not self.corrected:
            return super().log_density(latents, key)
        return self.target.log_prob(latents, key=key) - self.log_evidence

    def weighted(self, key: Key[Array, ""], n: int = WEIGHED, *, chunk_size: int | None = None) -> WeightedDraws:
        """Draws with their importance weights: of every fit from the guide, corrected from the wider proposal.

        Args:
            key: one typed key.
            n: the number of draws.
            chunk_size: run at most about this many at a time; None finds out how many times the data fit 64 MiB.
        """
        chunk_size = self.proposal.family.lanes if chunk_size is None else chunk_size
        return Fitted(self.target, self.proposal, self.proposal_args).weighted(key, n, chunk_size=chunk_size)

    @property
    def k_hat(self) -> float:
        """The k-hat that the report speaks of."""
        return super().k_hat if self.weights_k_hat is None else self.weights_k_hat

    def summary(self, *, key: Key[Array, ""] | None = None, n: int = WEIGHED) -> Summary:
        """As of every fit, corrected by weight; a doubt of the report stays where other draws do not raise it."""
        if self.corrected:
            return self._summary_by_weight(key, n)
        found, own = Fitted(self.target, self.guide, self.args).summary(key=key, n=n), self.weights_k_hat
        if own is None or own <= RELIABLE or any("k-hat" in doubt for doubt in found.doubts):
            return found
        doubt = f"k-hat was {own:.2f} of other draws, above {RELIABLE}: see `report`, and `weighted(key, n)`."
        return dataclasses.replace(found, doubts=(doubt, *found.doubts))

    def _summary_by_weight(self, key, n):
        key, n = key_of_summary(self, key), count("Variational.summary", "n", n)
        draw, plain, rest = jax.random.split(key, 3)
        weighted = self.weighted(draw, n)
        mended = _mended(self.proposal.family, weighted, super().latents(plain, n))
        doubts = [*weights_doubts(weighted), *mended.doubts]
        choices = with_deterministics(self.target, rest, weighted.choices, n)
        alone = jax.tree.map(lambda x: x[None], choices)
        return summarised(repr(self), alone, weighted.psis()[0], doubts)


def picked(key: Key[Array, ""], log_weights: Float[Array, " m"], n: int) -> Int[Array, " n"]:
    """Indices of n draws by weight, in random order: none twice while its share is below one in n.

    The weights are cut off at the mean times the root of their number.

    Source: Ionides, Truncated Importance Sampling, 2008; Carpenter, Clifford and Fearnhead, Improved Particle Filter
    for Nonlinear Problems, 1999 (systematic resampling).
    """
    offset, order = jax.random.split(key)
    many = len(log_weights)
    cut = jnp.minimum(log_weights, log_mean_exp(log_weights) + 0.5 * math.log(many))
    marks = (jnp.arange(n, dtype=cut.dtype) + jax.random.uniform(offset, dtype=cut.dtype)) / max(1, n)
    index = jnp.searchsorted(jnp.cumsum(jax.nn.softmax(cut)), marks)
    return jax.random.permutation(order, jnp.minimum(index, many - 1))


def judged(family: Family, params: Any, key: Key[Array, ""], *, correct: bool) -> tuple[Judgement, list[str]]:
    """What weights say of a fit, and the same in words."""
    plain = _Kind(family).at(params, key)
    k_hat, evidence = k_hat_or_none(plain.weighted), plain.weighted.log_evidence
    if k_hat == -math.inf:
        words = [f"k-hat of {WEIGHED} draws is -inf: the family is the posterior.", _evidence(plain)]
        return Judgement(k_hat, evidence), words
    if not correct or k_hat is None:
        return Judgement(k_hat, evidence), [*_covers(k_hat), *fit_doubts(plain.weighted)]
    by = _best(_proposals(plain, jax.random.fold_in(key, 1)))
    k_hat, evidence = by.weighted.k_hat, by.weighted.log_evidence
    if not k_hat <= RELIABLE:
        return Judgement(k_hat, evidence), list(weights_doubts(by.weighted))
    many = min(MOST, math.ceil(SPARE * WEIGHED / by.ess))
    mended = _mended(by.family, by.weighted, plain.weighted.choices)
    words = [*_covers(k_hat), _corrected(by, many), *mended.words, _evidence(by), *mended.doubts]
    return Judgement(k_hat, evidence, many, by), words


class _Kind:
    """Proposals of one family at whatever parameters: what is compiled for one serves for all."""

    def __init__(self, family: Family):
        self.family = family
        self._weigh, self._points = jax.jit(self._weighed), jax.jit(jax.vmap(self._point))

    def _weighed(self, params, key):
        found = Fitted(self.family.space.target, self.family.guide, (params,)).weighted(
            key, WEIGHED, chunk_size=self.family.lanes
        )
        return found.choices, found.log_weights

    def _point(self, choices):
        return self.family.space.ravel(self.family.space.backward(choices)[0])

    def at(self, params: Any, key: Key[Array, ""]) -> Proposal:
        """The proposal at these parameters."""
        choices, log_weights = self._weigh(params, key)
        return Proposal(self.family, params, WeightedDraws(choices, log_weights, self.family.space.target))

    def rounds(self, found: list[Proposal], key: Key[Array, ""]) -> list[Proposal]:
        """Proposals and more, each with the moments of the weighted draws of the last, until the weights are even."""
        for i in range(ROUNDS):
            if _best(found).ess > EVEN * WEIGHED:
                break
            params = self.matched(found[-1].params, found[-1].weighted)
            if params is None:
                break
            found = [*found, self.at(params, jax.random.fold_in(key, i))]
        return found

    def matched(self, params: Any, weighted: WeightedDraws) -> Any:
        """Parameters with the moments of weighted draws; None where a family has none, or they are not finite."""
        weights = jax.nn.softmax(weighted.psis()[0])
        params = self.family.matched(params, self._points(weighted.choices), weights)
        finite = params is not None and all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(params))
        return params if finite else None


def _proposals(plain, key) -> list[Proposal]:
    """The family; the one with wider tails; and while weights are uneven, that with the moments of weighted draws.

    Where all that leaves them uneven, the few are drawn by kernels and the many given those.
    """
    found, wider = [plain], _Kind(plain.family.widened)
    if wider.family is not plain.family:
        found.append(wider.at(plain.params, key))
    found = wider.rounds(found, key)
    inside = nested(plain.family, plain.params)
    if inside is None or _best(found).ess > UNEVEN * WEIGHED:
        return found
    return [*found, *_nested_proposals(*inside, _best(found), jax.random.fold_in(key, ROUNDS))]


def _nested_proposals(family, params, by, key) -> list[Proposal]:
    """Those that start from the weighted draws of another proposal."""
    kind = _Kind(family)
    params = kind.matched(params, by.weighted)
    return [] if params is None else kind.rounds([kind.at(params, key)], key)


def _mended(family, weighted, plain) -> Corrections:
    """What the weights correct of the plain draws; kernels go where the weights say, however narrow the fit was."""
    return corrections(weighted, plain, least=0.0 if isinstance(family, Nested) else MENDED)


def _best(found: list[Proposal]) -> Proposal:
    """Of those whose weights can be relied on the most even, else the one with the smallest k-hat."""
    relied = [each for each in found if each.weighted.k_hat <= RELIABLE]
    return max(relied, key=lambda each: each.ess) if relied else min(found, key=lambda each: each.weighted.k_hat)


def _covers(k_hat) -> list[str]:
    if k_hat is None or not k_hat <= RELIABLE:
        return []
    return [f"k-hat of {WEIGHED} draws is {k_hat:.2f}: below {RELIABLE}, the fit covers the posterior."]


def _corrected(by, proposals) -> str:
    how = f" {by.family.in_words()}" if isinstance(by.family, Nested) else ""
    return (
        f"Draws are corrected by importance weights, each picked from {proposals} proposals; {WEIGHED} are worth "
        f"{by.ess:.0f} even ones. (The family alone: `correct=False`.){how}"
    )


def _evidence(by) -> str:
    error = math.sqrt(max(0.0, 1.0 / by.ess - 1.0 / len(by.weighted.log_weights)))
    return f"Log evidence: {float(by.weighted.log_evidence):.6g} ± {error:.1g}, by the weights."
