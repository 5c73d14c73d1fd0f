"""Discrete programs, the densities over them that are estimates, and their laws in NumPy."""

import itertools

import jax
import numpy as np
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEY = jax.random.key(0)

# ---- discrete programs whose probabilities are multiples of 1/4 -----------------------------------------------------


@tg.gen
def pair(p):
    u = tg.sample("u", dist.Bernoulli(probs=p))
    tg.sample("x", dist.Bernoulli(probs=jnp.where(u == 1, 0.75, 0.25)))


@tg.gen
def reverse(kept, p):
    tg.sample("u", dist.Bernoulli(probs=jnp.where(kept["x"] == 1, 0.5, 0.25)))


@tg.gen
def hidden_reverse(kept, p):
    a = tg.sample("a", dist.Bernoulli(probs=0.5))
    tg.sample("u", dist.Bernoulli(probs=jnp.where((kept["x"] == 1) & (a == 1), 0.75, 0.5)))


@tg.gen
def outer(p):
    """A program whose choices come with an estimated density: one marginal inside another."""
    x = tg.sample("inner", tg.marginal(pair, "x", tg.importance(2))(p))["x"]
    tg.sample("y", dist.Bernoulli(probs=jnp.where(x == 1, 0.75, 0.5)))


@tg.gen
def step(state, _):
    z = tg.sample("z", dist.Bernoulli(probs=jnp.where(state == 1, 0.75, 0.25)))
    tg.sample("y", dist.Bernoulli(probs=jnp.where(z == 1, 0.75, 0.25)))
    return z, None


@tg.gen
def step_proposal(observed, state, _):
    tg.sample("z", dist.Bernoulli(probs=jnp.where(observed["y"] == 1, 0.5, 0.25)))


half = tg.gen(lambda: tg.sample("u", dist.Bernoulli(probs=0.25)))
close = tg.gen(lambda: tg.sample("u", dist.Bernoulli(probs=0.75)))  # its weights are 3 : 1
blurred_half = tg.gen(
    lambda: tg.sample("u", dist.Bernoulli(probs=jnp.where(tg.sample("a", dist.Bernoulli(probs=0.5)) == 1, 0.25, 0.5)))
)


@tg.gen
def blurred_step(state, _):
    """A step whose latent and observed choices both have estimated densities, two deep."""
    z = tg.sample("z", tg.marginal(pair, "x", tg.importance(1))(jnp.where(state == 1, 0.75, 0.5)))["x"]
    tg.sample("y", tg.marginal(pair, "x", tg.importance(1))(jnp.where(z == 1, 0.75, 0.25)))
    return z, None


@tg.gen
def blurred_proposal(observed, state, _):
    tg.sample("z", tg.marginal(pair, "x", tg.importance(1))(0.5))


chain = step.scan(length=2)
blurred_chain, blurred_once = blurred_step.scan(length=2), blurred_step.scan(length=1)
posterior_target = tg.Target(pair, (0.75,), {"x": 1})
chain_target = tg.Target(chain, (0,), {"y": jnp.array([1, 0])})
blurred_target = tg.Target(blurred_chain, (0,), {"y": {"x": jnp.array([1, 0])}})


def steps(address):
    return [{address: np.array(v)} for v in itertools.product((0, 1), repeat=2)]


def nested_steps(address):
    return [{address: {"x": v}} for v in (s[address] for s in steps(address))]


def one_step(address):
    return [{address: {"x": np.array([v])}} for v in (0, 1)]


def bits(address):
    return [{address: np.array(v)} for v in (0, 1)]


def posterior(algorithm, target=posterior_target):
    return tg.normalize(target, algorithm).with_estimators({"index": tg.enum()})


MARGINALS = {
    "importance 1": (tg.marginal(pair, "x", tg.importance(1)), (0.75,), bits("x")),
    "importance 3": (tg.marginal(pair, "x", tg.importance(3)), (0.75,), bits("x")),
    "importance 3 in chunks": (tg.marginal(pair, "x", tg.importance(3, chunk_size=2)), (0.75,), bits("x")),
    "importance 1, proposal": (tg.marginal(pair, "x", tg.importance(1, reverse)), (0.75,), bits("x")),
    "importance 3, proposal": (tg.marginal(pair, "x", tg.importance(3, reverse)), (0.75,), bits("x")),
    "importance 2, proposal that is a marginal": (
        tg.marginal(pair, "x", tg.importance(2, tg.marginal(hidden_reverse, "u", tg.importance(2)))),
        (0.75,),
        bits("x"),
    ),
    "importance over a marginal": (tg.marginal(outer, "y", tg.importance(2)), (0.75,), bits("y")),
    "importance keeping a marginal": (
        tg.marginal(outer, "inner", tg.importance(2)),
        (0.75,),
        [{"inner": v} for v in bits("x")],
    ),
    "exact": (tg.marginal(pair, "x", tg.exact()), (0.75,), bits("x")),
    "forward filter": (tg.marginal(chain, "y", tg.forward_filter()), (0,), steps("y")),
    "smc 1": (tg.marginal(chain, "y", tg.smc(1)), (0,), steps("y")),
    "smc 2": (tg.marginal(chain, "y", tg.smc(2)), (0,), steps("y")),
    "smc 2, proposal": (tg.marginal(chain, "y", tg.smc(2, step_proposal)), (0,), steps("y")),
    "smc 1, adaptive": (tg.marginal(chain, "y", tg.smc(1, ess_threshold=0.9)), (0,), steps("y")),
    "smc 2, adaptive": (tg.marginal(chain, "y", tg.smc(2, step_proposal, ess_threshold=0.9)), (0,), steps("y")),
    "smc 1 over marginals": (tg.marginal(blurred_chain, "y", tg.smc(1)), (0,), nested_steps("y")),
    "smc 2 over marginals, proposal": (
        tg.marginal(blurred_once, "y", tg.smc(2, blurred_proposal)),
        (0,),
        one_step("y"),
    ),
    "exact over a marginal": (tg.marginal(outer, "inner", tg.exact()), (0.75,), [{"inner": v} for v in bits("x")]),
}

POSTERIORS = {
    "sir 1": (posterior(tg.sir(1, half)), (), bits("u")),
    "sir 3": (posterior(tg.sir(3, half)), (), bits("u")),
    "sir 2, proposal that is a marginal": (
        posterior(tg.sir(2, tg.marginal(blurred_half, "u", tg.importance(2)))),
        (),
        bits("u"),
    ),
    "sir 2, proposal that is a posterior": (
        tg.normalize(posterior_target, tg.sir(2, tg.normalize(posterior_target, tg.sir(1, close)))),
        (),
        bits("u"),
    ),
    "importance 3": (posterior(tg.importance(3)), (), bits("u")),
    "exact": (posterior(tg.exact()), (), bits("u")),
    "smc 2": (posterior(tg.smc(2), chain_target), (), steps("z")),
    "smc 2, adaptive": (posterior(tg.smc(2, ess_threshold=0.9), chain_target), (), steps("z")),
    "smc 1 over marginals": (posterior(tg.smc(1), blurred_target), (), nested_steps("z")),
    "exact over a marginal": (posterior(tg.exact(), tg.Target(outer, (0.75,), {"inner": {"x": 1}})), (), bits("y")),
}


def exactly(program, cells=4):
    """The exact expectation of a program that draws."""
    return np.asarray(tg.exact_expectation(tg.expectation(program), cells=cells)(KEY))


def same(x, v):
    return jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(v), strict=True)]))


def masses(q, args, values, cells=4):
    """E[w] of assess at each value: one is drawn to be assessed, so that one enumeration serves all."""
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *values)
    n = len(values)

    def program(key):
        pick, density = jax.random.split(key)
        i = sample(pick, dist.Categorical(probs=jnp.full((n,), 1.0 / n)))
        logp, _ = q.assess(jax.tree.map(lambda x: x[i], stacked), *args, key=density)
        return n * jax.nn.one_hot(i, n) * jnp.exp(logp)

    return exactly(program, cells=cells)


def inverse_masses(q, args, values, cells=4):
    """E[1{x = v} / w] of simulate at each value, and how often the value is drawn."""

    def program(key):
        made = q.simulate(key, *args)
        hit = jnp.stack([same(made.choices, v) for v in values]).astype(float)
        return jnp.stack([hit * jnp.exp(-made.logp), hit])

    return exactly(program, cells=cells)


# ---- their laws, in NumPy -------------------------------------------------------------------------------------------


def coin(p):
    return np.array([1.0 - p, p])


def of_pair(p):
    """p(x) of `pair`, by hand."""
    return coin(0.75 * p + 0.25 * (1.0 - p))


def move_and_emit(*, nested):
    """P(z = 1 | state) and P(y = 1 | z) of a step."""
    probabilities = (of_pair(0.5)[1], of_pair(0.75)[1]), (of_pair(0.25)[1], of_pair(0.75)[1])
    return probabilities if nested else ((0.25, 0.75), (0.25, 0.75))


def likelihood_of(ys, *, nested):
    """p(y) of the chain, by a sum over the states."""
    move, emit = map(np.array, move_and_emit(nested=nested))
    alpha = np.array([1.0, 0.0])
    for y in ys:
        alpha = np.array([alpha @ (1.0 - move), alpha @ move]) * (emit if y else 1.0 - emit)
    return alpha.sum()


def of_chain(length, *, nested):
    return [likelihood_of(ys, nested=nested) for ys in itertools.product((0, 1), repeat=length)]


def resampled(n, draws):
    """The law of one of n draws, each (probability, u, what is said to be its density), chosen by gamma / density."""
    gamma, law = np.array([0.25 * 0.25, 0.75 * 0.75]), np.zeros(2)
    for each in itertools.product(draws, repeat=n):
        weights = np.array([gamma[u] / density for _, u, density in each])
        probability = np.prod([p for p, _, _ in each])
        for (_, u, _), weight in zip(each, weights / weights.sum(), strict=True):
            law[u] += probability * weight
    return law


def plainly(p):
    """Draws of a coin, with its own density."""
    return [(coin(p)[u], u, coin(p)[u]) for u in (0, 1)]


def blurred_draws():
    """Draws of `blurred_half`, whose density is the mean of two given what is marginalised, one of them the draw's."""
    given = [coin(0.5), coin(0.25)]
    return [
        (0.25 * given[a][u], u, (given[a][u] + given[b][u]) / 2.0) for a, b, u in itertools.product((0, 1), repeat=3)
    ]


def filtered_paths(threshold):
    """The law of the path that two particles end with, over two steps: a sum over all their runs."""
    move, emit = move_and_emit(nested=False)
    law = dict.fromkeys(itertools.product((0, 1), repeat=2), 0.0)
    for first in itertools.product((0, 1), repeat=2):
        weights = np.array([coin(emit[z])[1] for z in first])
        resamples = threshold is None or weights.sum() ** 2 / (weights**2).sum() < threshold * 2
        carried = np.ones(2) if resamples else weights
        for ancestors in itertools.product((0, 1), repeat=2):
            chance = np.prod(weights[list(ancestors)] / weights.sum()) if resamples else float(ancestors == (0, 1))
            for last in itertools.product((0, 1), repeat=2):
                paths = [(first[a], z) for a, z in zip(ancestors, last, strict=True)]
                made = np.prod([coin(move[0])[z] for z in first]) * np.prod([coin(move[s])[z] for s, z in paths])
                final = carried * np.array([coin(emit[z])[0] for z in last])
                for path, share in zip(paths, final / final.sum(), strict=True):
                    law[path] += made * chance * share
    return list(law.values())


def summed_with_estimates():
    """The law of y in `outer` given x = 1 where each value of y is summed with an estimate of p(x = 1) of its own."""
    estimates = [(0.75, 9 / 16), (0.5, 6 / 16), (0.25, 1 / 16)]  # of two draws of u
    law = np.zeros(2)
    for (no, p), (yes, q) in itertools.product(estimates, repeat=2):
        joint = np.array([no, yes]) * coin(0.75)
        law += p * q * joint / joint.sum()
    return law


PAIRS, YS_OF_CHAIN = of_pair(0.75), of_chain(2, nested=False)
LAWS = {
    **{f"marginal: {name}": PAIRS for name, (_, _, values) in MARGINALS.items() if set(values[0]) == {"x"}},
    **{f"marginal: {name}": YS_OF_CHAIN for name in MARGINALS if name.startswith(("forward", "smc"))},
    "marginal: importance over a marginal": PAIRS @ [coin(0.5), coin(0.75)],
    "marginal: importance keeping a marginal": PAIRS,
    "marginal: exact over a marginal": PAIRS,
    "marginal: smc 1 over marginals": of_chain(2, nested=True),
    "marginal: smc 2 over marginals, proposal": of_chain(1, nested=True),
    "normalize: sir 1": coin(0.25),
    "normalize: sir 3": resampled(3, plainly(0.25)),
    "normalize: sir 2, proposal that is a marginal": resampled(2, blurred_draws()),
    "normalize: sir 2, proposal that is a posterior": resampled(2, plainly(0.75)),
    "normalize: importance 3": resampled(3, plainly(0.75)),
    "normalize: exact": coin(0.9),
    "normalize: smc 2": filtered_paths(None),
    "normalize: smc 2, adaptive": filtered_paths(0.9),
    "normalize: smc 1 over marginals": [0.25, 0.25, 0.5 * 0.375, 0.5 * 0.625],
    "normalize: exact over a marginal": summed_with_estimates(),
}
