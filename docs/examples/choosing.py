"""Three small problems, and what each gradient estimator costs in them: the numbers of `choosing-an-estimator.md`.

    python docs/examples/choosing.py

Every combination of the estimators named is measured by `compare_estimators`: the variance of the gradient, summed over
its entries, and the time of one gradient in a batch.
"""

import re

import jax
import jax.numpy as jnp

import tracegrad as tg
from tracegrad import dist

# ---- 1: a plate of coins, and a cost that couples neighbours --------------------------------------------------------


@tg.gen
def coin(logit):
    return tg.sample("b", dist.Bernoulli(logits=logit)).astype(float)


@tg.gen
def plate(logits):
    b = tg.sample("coins", coin.vmap()(logits))
    return ((b - 0.4) ** 2).sum() + (b[1:] * b[:-1]).sum()


PLATE = (
    tg.expectation(lambda key, logits: plate.simulate(key, logits).retval),
    (jnp.linspace(-1.0, 1.0, 8),),
    {"coins/b": [tg.reinforce(), tg.disarm(), tg.mvd(), tg.local_expectation()]},
)

# ---- 2: a chain of choices, each of which moves all that follow -----------------------------------------------------


@tg.gen
def step(state, logit):
    b = tg.sample("b", dist.Bernoulli(logits=logit + 0.5 * state))
    state = 0.8 * state + b.astype(float) - 0.5
    return state, (state - 0.3) ** 2


@tg.gen
def chain(logits):
    return tg.sample("steps", step.scan()(0.0, logits))[1].sum()


CHAIN = (
    tg.expectation(lambda key, logits: chain.simulate(key, logits).retval),
    (jnp.zeros(10),),
    {"steps/b": [tg.reinforce(), tg.reinforce(baseline=jnp.asarray(1.5)), tg.disarm(), tg.mvd()]},
)

# ---- 3: the evidence bound of a mixture, with a category and a location ---------------------------------------------


@tg.gen
def model():
    k = tg.sample("k", dist.Categorical(probs=jnp.asarray([0.5, 0.3, 0.2])))
    z = tg.sample("z", dist.Normal(jnp.asarray([-1.0, 0.0, 2.0])[k], 1.0))
    tg.sample("x", dist.Normal(z, 1.0))


@tg.gen
def guide(logits, loc, log_scale):
    k = tg.sample("k", dist.Categorical(logits=logits))
    tg.sample("z", dist.Normal(loc[k], jnp.exp(log_scale)))


bound = tg.elbo(model, guide, {"x": jnp.asarray(0.7)})
MIXTURE = (
    lambda key, *params: bound(key, (), params),
    (jnp.zeros(3), jnp.asarray([-0.5, 0.5, 1.5]), jnp.asarray(-0.5)),
    {"k": [tg.enum(), tg.mvd(), tg.reinforce()], "z": [tg.reparam(), tg.mvd(), tg.reinforce()]},
)

PROBLEMS = {"plate": PLATE, "chain": CHAIN, "mixture": MIXTURE}


def measure(name: str, draws: int = 2000):
    """Compare the estimators of one problem."""
    objective, args, sites = PROBLEMS[name]
    return tg.compare_estimators(objective, *args, key=jax.random.key(0), sites=sites, draws=draws)


def main():
    for name in PROBLEMS:
        found = measure(name)
        print(f"\n{name}\n\n| {' | '.join(found.sites)} | variance | ms | variance x ms |")
        print("|---" * (len(found.sites) + 3) + "|")
        for row in found.rows:
            names = [re.sub(r"Array\(([^,]*),.*?\)", r"\1", f"`{e}`") for e in row["choice"].values()]
            numbers = [f"{row[k]:.3g}" for k in ("variance", "milliseconds", "cost")]
            print("| " + " | ".join([*names, *numbers]) + " |")


if __name__ == "__main__":
    main()
