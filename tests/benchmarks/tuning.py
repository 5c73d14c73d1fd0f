"""How near `tune_estimators` comes to the best fixed combination, on six programs, before training and after it.

    python tests/benchmarks tuning                       # all six, in small form
    python tests/benchmarks tuning mixture plate         # some of them
    python tests/benchmarks tuning belief --whole        # the belief network with 784-200-200 units

Every combination of the estimators that are listed for a program, with each number of forks, is measured on the same
draws, in turns: the variance of the gradient, summed over its entries, times the processor time of one gradient, that
of the quickest round. A row has that of the tuned choice over that of the best one in the list; below one, the tuned
choice is not in it.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

from .timing import show_table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

ROUNDS = 12
STEPS = 300
KEY = jax.random.key(0)
SCORE, DISARM, MVD, LOCAL = tg.reinforce(), tg.disarm(), tg.mvd(), tg.local_expectation()


class Program(NamedTuple):
    """What is tuned: `objective(key, params, *args)`, and the combinations that it is compared with."""

    objective: Any
    params: Any
    args: tuple
    sites: dict[str, list]
    forks: tuple = ("kept",)
    rate: float = 1e-2
    draws: int = 32


def layer(key, n_in, n_out):
    return {"w": jax.random.normal(key, (n_in, n_out)) / np.sqrt(n_in), "b": jnp.zeros(n_out)}


def linear(layer, x):
    return jnp.asarray(x, layer["w"].dtype) @ layer["w"] + layer["b"]


def bits(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


def pictures(key, n, pixels):
    """Bits with a few prototypes behind them."""
    k1, k2, k3 = jax.random.split(key, 3)
    kinds = jax.random.bernoulli(k1, 0.3, (5, pixels))
    return (kinds[jax.random.randint(k2, (n,), 0, 5)] ^ jax.random.bernoulli(k3, 0.05, (n, pixels))).astype(float)


def minus_mean(bound):
    """The loss of a batch, from the bound of an example."""

    def loss(key, params, batch):
        keys = jax.random.split(key, len(batch))
        return -jax.vmap(bound, (0, None, 0))(keys, params, batch).mean()

    return loss


# ---- the programs ---------------------------------------------------------------------------------------------------


def belief(*, whole):
    """A sigmoid belief network with two layers of bits, and a family of the same shape upside down."""
    pixels, units, batch = (784, 200, 20) if whole else (64, 20, 8)

    @tg.gen
    def model(p):
        top = tg.sample("top", bits(p["prior"]))
        low = tg.sample("low", bits(linear(p["top"], top)))
        tg.sample("x", bits(linear(p["low"], low)))

    @tg.gen
    def guide(q, x):
        low = tg.sample("low", bits(linear(q["low"], x)))
        tg.sample("top", bits(linear(q["top"], low)))

    k = jax.random.split(KEY, 5)
    params = {
        "p": {"prior": jnp.zeros(units), "top": layer(k[0], units, units), "low": layer(k[1], units, pixels)},
        "q": {"low": layer(k[2], pixels, units), "top": layer(k[3], units, units)},
    }
    loss = minus_mean(lambda key, params, x: tg.elbo(model, guide, {"x": x})(key, (params["p"],), (params["q"], x)))
    sites = {"low": [SCORE, DISARM, LOCAL], "top": [SCORE, DISARM, LOCAL]}
    return Program(loss, params, (pictures(k[4], batch, pixels),), sites, (None, 8), 1e-3)


def scenes(*, whole):
    """Attend, infer, repeat: three steps in a scan; the bits of presence are what is hard."""
    from air_objectives import elbo, parameters

    arrays, static = eqx.partition(parameters(KEY), eqx.is_inexact_array)
    objective = elbo({})(scanned=True)
    seen = jax.random.uniform(jax.random.key(1), (16 if whole else 4, 50, 50)) ** 4

    def loss(key, arrays, images):
        return -objective(key, eqx.combine(arrays, static), images)

    return Program(loss, arrays, (seen,), {"steps/pres": [SCORE, DISARM, MVD, LOCAL]}, ("kept",), 1e-4)


def autoencoder(*, whole):
    """An autoencoder with 32 latent bits."""
    pixels, hidden, batch = (784, 200, 64) if whole else (64, 32, 8)

    @tg.gen
    def model(p):
        z = tg.sample("z", bits(jnp.zeros(32)))
        tg.sample("x", bits(linear(p["out"], jnp.tanh(linear(p["in"], z)))))

    @tg.gen
    def guide(q, x):
        tg.sample("z", bits(linear(q["out"], jnp.tanh(linear(q["in"], x)))))

    k = jax.random.split(KEY, 5)
    params = {
        "p": {"in": layer(k[0], 32, hidden), "out": layer(k[1], hidden, pixels)},
        "q": {"in": layer(k[2], pixels, hidden), "out": layer(k[3], hidden, 32)},
    }
    loss = minus_mean(lambda key, params, x: tg.elbo(model, guide, {"x": x})(key, (params["p"],), (params["q"], x)))
    sites = {"z": [SCORE, DISARM, MVD, LOCAL]}
    return Program(loss, params, (pictures(k[4], batch, pixels),), sites, (None, 1, 4, 16), 1e-3)


def mixture(*, whole):
    """A category and a location."""
    n = 10 if whole else 5

    @tg.gen
    def model():
        k = tg.sample("k", dist.Categorical(logits=jnp.linspace(0.0, 1.0, n)))
        z = tg.sample("z", dist.Normal(jnp.linspace(-2.0, 2.0, n)[k], 1.0))
        tg.sample("x", dist.Normal(z, 0.5))

    @tg.gen
    def guide(w):
        k = tg.sample("k", dist.Categorical(logits=w["k"]))
        tg.sample("z", dist.Normal(w["m"][k], jnp.exp(w["s"][k])))

    bound = tg.elbo(model, guide, {"x": 0.7})
    params = {"k": jnp.zeros(n), "m": jnp.linspace(-1.0, 1.0, n), "s": jnp.zeros(n)}
    sites = {"k": [tg.enum(), MVD, LOCAL, SCORE], "z": [tg.reparam(), MVD, SCORE]}
    return Program(lambda key, w: -bound(key, (), (w,)), params, (), sites, draws=512)


def chain(*, whole):
    """Fifty steps of a chain with two regimes, observed with noise."""
    steps = 200 if whole else 50

    @tg.gen
    def step(before, y):
        s = tg.sample("s", dist.Bernoulli(jnp.where(before == 1, 0.9, 0.1)))
        tg.sample("y", dist.Normal(2.0 * s.astype(float) - 1.0, 0.7))
        return s, None

    @tg.gen
    def choice(before, logits):
        s = tg.sample("s", dist.Bernoulli(logits=logits[0] + logits[1] * before.astype(float)))
        return s, None

    @tg.gen
    def model(ys):
        tg.sample("steps", step.scan()(jnp.array(0), ys))

    @tg.gen
    def guide(w):
        tg.sample("steps", choice.scan()(jnp.array(0), w))

    ys = jnp.where(jnp.arange(steps) // 10 % 2 == 0, 1.0, -1.0) + 0.7 * jax.random.normal(KEY, (steps,))
    bound = tg.elbo(model, guide, {"steps": {"y": ys}})
    sites = {"steps/s": [SCORE, DISARM, MVD, LOCAL]}
    loss = lambda key, w: -bound(key, (ys,), (w,))  # noqa: E731
    return Program(loss, jnp.zeros((steps, 2)), (), sites, (None, 1, 4, 16), 3e-2)


def plate(*, whole):
    """Eight coins, each of which is coupled with the next."""
    n = 64 if whole else 8

    @tg.gen
    def coin(logit):
        return tg.sample("b", dist.Bernoulli(logits=logit)).astype(float)

    @tg.gen
    def coins(logits):
        b = tg.sample("coins", coin.vmap()(logits))
        return ((b - 0.4) ** 2).sum() + (b[1:] * b[:-1]).sum()

    loss = tg.expectation(lambda key, logits: coins.simulate(key, logits).retval)
    sites = {"coins/b": [SCORE, DISARM, MVD, LOCAL]}
    return Program(loss, jnp.linspace(-1.0, 1.0, n), (), sites, (None, 1, 4), draws=512)


PROGRAMS = {f.__name__: f for f in (belief, scenes, autoencoder, mixture, chain, plate)}


# ---- measuring ------------------------------------------------------------------------------------------------------


class Seen:
    """The gradients of one objective, and what they were like, round after round."""

    def __init__(self, objective, draws):
        self.draws = draws

        def one(params, args, key):
            g = jnp.concatenate(
                [x.ravel() for x in jax.tree.leaves(jax.grad(objective, argnums=1)(key, params, *args))]
            )
            return g, jnp.vdot(g, g)

        def several(key, params, args):
            def add(sums, key):
                return jax.tree.map(jnp.add, sums, one(params, args, key)), None

            keys = jax.random.split(key, draws)
            return lax.scan(add, jax.tree.map(jnp.zeros_like, one(params, args, key)), keys)[0]

        self._run = jax.jit(several)
        self.variances, self.seconds = [], []

    def text(self, params, args):
        """The program that it is."""
        return self._run.lower(KEY, params, args).as_text()

    def look(self, key, params, args):
        begun = time.process_time()
        total, square = jax.block_until_ready(self._run(key, params, args))
        self.seconds.append((time.process_time() - begun) / self.draws)
        mean = np.asarray(total, np.float64) / self.draws
        self.variances.append((float(square) / self.draws - mean @ mean) * self.draws / (self.draws - 1))

    @property
    def variance(self):
        return max(0.0, float(np.mean(self.variances[1:])))

    @property
    def error(self):
        """Of the variance, in parts of it."""
        found = self.variances[1:]
        return float(np.std(found) / np.sqrt(len(found)) / max(np.mean(found), 1e-30))

    @property
    def ms(self):
        return 1e3 * min(self.seconds[1:])

    @property
    def cost(self):
        return self.variance * self.ms


def named(sites, forks):
    """A combination in words: the estimators of the sites that are compared, and the forks where some are."""
    at = [f"{str(e).removesuffix('()')} at {site}" for site, e in sites.items()]
    return ", ".join([*at, *([] if forks == "kept" else [f"{'all' if forks is None else forks} forks"])])


def combinations(program):
    """Every combination of the list; the number of forks matters only where something forks."""
    for estimators in itertools.product(*program.sites.values()):
        sites = dict(zip(program.sites, estimators, strict=True))
        forking = any(isinstance(e, tg.transforms.Fork) for e in estimators)
        for forks in program.forks if forking else program.forks[:1]:
            yield named(sites, forks), tg.with_estimators(program.objective, sites, forks=forks)


def compared(program, choice, params):
    """What was seen of each fixed combination, and of the tuned choice."""
    seen = {name: Seen(objective, program.draws) for name, objective in combinations(program)}
    tuned = named({site: choice.sites[site] for site in program.sites}, choice.forks)
    mine = Seen(choice.apply(program.objective), program.draws)
    text = mine.text(params, program.args)
    # Where it is the same program, only the noise of times would tell them apart.
    seen[f"tuned: {tuned}"] = next((s for s in seen.values() if s.text(params, program.args) == text), mine)
    for i in range(ROUNDS + 1):  # the first compiles
        key = jax.random.fold_in(jax.random.key(99), i)
        for each in list(dict.fromkeys(seen.values()))[:: -1 if i % 2 else 1]:
            each.look(key, params, program.args)
    return seen


def row(name, when, program, params, *, budget, details):
    choice = tg.tune_estimators(program.objective, params, *program.args, key=KEY, budget=budget, argnums=0)
    seen = compared(program, choice, params)
    best, *_ = sorted((name for name in seen if not name.startswith("tuned")), key=lambda name: seen[name].cost)
    (tuned,) = [name for name in seen if name.startswith("tuned")]
    if details:
        print(choice)
        for each in sorted(seen, key=lambda name: seen[name].cost):
            s = seen[each]
            print(f"{s.variance:12.4g} +- {s.error:.0%} {s.ms:10.4g} ms {s.cost:12.4g}  {each}")
    a, b = seen[tuned], seen[best]
    others = {site: e for site, e in choice.sites.items() if site not in program.sites}
    also = f" ({named(others, 'kept')})" if others else ""
    ratio = 1.0 if a.cost == b.cost == 0.0 else a.cost / b.cost if b.cost else np.inf
    error = np.hypot(a.error, b.error)
    numbers = [f"{x:.3g}" for x in (a.variance, a.ms, b.variance, b.ms)]
    cells = [name, when, tuned.removeprefix("tuned: ") + also, *numbers[:2], best, *numbers[2:]]
    return choice, [*cells, f"{ratio:.2f} +- {ratio * error:.2f}", f"{choice.seconds:.0f}"]


def main(arguments=None):
    given = sys.argv[sys.argv.index("tuning") + 1 :] if arguments is None and "tuning" in sys.argv else arguments
    parser = argparse.ArgumentParser(prog="tests/benchmarks tuning")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PROGRAMS)}; none means all")
    parser.add_argument("--whole", action="store_true", help="the sizes of the literature")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each tuning")
    parser.add_argument("--start", action="store_true", help="before training alone")
    parser.add_argument("--details", action="store_true", help="all that was measured")
    options = parser.parse_args(given or [])
    rows = []
    for name in options.names or PROGRAMS:
        program = PROGRAMS[name](whole=options.whole)
        params, whens = program.params, ("at the start", f"after {STEPS} steps")
        for when in whens[:1] if options.start else whens:
            choice, cells = row(name, when, program, params, budget=options.budget, details=options.details)
            rows.append(cells)
            if when == whens[0] and not options.start:
                loss = choice.apply(lambda key, w, program=program: program.objective(key, w, *program.args))
                adam = optax.adam(program.rate)
                params = tg.fit(loss, params, adam, key=KEY, steps=STEPS, progress=False).params
        show_table(
            f"{name}: the tuned choice against the best of the list", HEAD, rows[-1:] if options.start else rows[-2:]
        )
    show_table("The tuned choice against the best fixed combination", HEAD, rows)


HEAD = ["program", "when", "tuned", "variance", "ms", "best fixed", "variance", "ms", "cost ratio", "tuning, s"]
