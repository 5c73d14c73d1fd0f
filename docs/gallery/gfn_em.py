"""GFlowNet-EM: the parts that make up the data, found with a sampler that is trained off its own draws.

Each datum is the sum of three of six parts, in whatever order they were put together. A policy takes a part at a time,
looking at what is left to explain; the model's order is uniform, so a set of parts has its posterior as the reward.
The E-step makes the policy flow in that proportion by trajectory balance, on draws of another program than the policy:
one that explores, a mixture of the policy and chance at every choice (`proposal=`). Balance does not ask who draws, and
so finds the sets that a policy trained on its own draws never visits. The M-step moves the parts, by importance
weighted draws of the policy. There are twenty sets: all is compared with the exact posterior and likelihood.

Source: Hu et al., GFlowNet-EM for Learning Compositional Latent Variable Models, 2023; Malkin et al., Trajectory
Balance, 2022.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist

PARTS, PICK, D, NOISE, N = 6, 3, 4, 0.5, 200
SETS = jnp.array([[i in s for i in range(PARTS)] for s in itertools.combinations(range(PARTS), PICK)], float)
SHOWN = 50  # data on which the policy is compared with the posterior


def among(left, logits):
    return dist.Categorical(logits=jnp.where(left > 0, logits, -jnp.inf))


@tg.gen
def any_order(taken, _):
    part = tg.sample("part", among(1 - taken, jnp.zeros(PARTS)))
    return taken.at[part].set(1.0), None


@tg.gen
def model(parts):
    taken, _ = tg.sample("steps", any_order.scan(PICK)(jnp.zeros(PARTS), None))
    tg.sample("x", dist.Normal(taken @ parts, NOISE).to_event(1))


def choosing(heat):
    """Takes parts by how well they fit what is left, corrected by a network; hot, more evenly."""

    @tg.gen
    def policy(w, parts, x):
        @tg.gen
        def step(taken, trust):
            left = x - taken @ parts
            fit = -jnp.sum((left - parts) ** 2, -1) / (2.0 * NOISE**2)
            logits = trust * fit + w["net"](jnp.concatenate([left, taken]))
            part = tg.sample("part", among(1 - taken, logits / heat))
            return taken.at[part].set(1.0), None

        tg.sample("steps", step.scan()(jnp.zeros(PARTS), w["trust"]))

    return policy


policy, explorer = choosing(1.0), choosing(3.0)


def objective(key, w, batch):
    def one(key, x):
        k1, k2 = jax.random.split(key)
        parts = jax.lax.stop_gradient(w["parts"])
        e_step = tg.log_variance(model, policy, {"x": x}, n=8, proposal=explorer)(k1, parts, (w["policy"], parts, x))
        m_step = tg.wake_theta(model, policy, {"x": x}, n=8)(k2, w["parts"], (w["policy"], parts, x))
        return e_step - m_step

    return jax.vmap(one)(jax.random.split(key, len(batch)), batch).mean()


# ---- what is exact ---------------------------------------------------------------------------------------------------


def log_sets(parts, x):
    """The log joint density of a datum and each of the twenty sets."""
    return dist.Normal(SETS @ parts, NOISE).to_event(1).log_prob(x) - jnp.log(len(SETS))


def log_likelihood(parts, data):
    return jax.vmap(lambda x: jax.nn.logsumexp(log_sets(parts, x)))(data).mean()


def exact_em(parts, data, rounds=200):
    def once(parts, _):
        shares = jax.vmap(lambda x: jax.nn.softmax(log_sets(parts, x)))(data)
        return jnp.linalg.solve(jnp.einsum("ns,sp,sq->pq", shares, SETS, SETS), (shares @ SETS).T @ data), None

    return jax.lax.scan(once, parts, None, rounds)[0]


def policy_shares(w, x):
    """Of the twenty sets, by the policy: the sum over the orders in which each is made."""
    orders = jnp.array(list(itertools.permutations(range(PARTS), PICK)))
    which = (jax.nn.one_hot(orders, PARTS).sum(1)[:, None] == SETS).all(-1).astype(float)

    def logp(order):
        return policy.assess({"steps": {"part": order}}, w["policy"], w["parts"], x)[0]

    return jnp.exp(jax.vmap(logp)(orders)) @ which


def compared(w, data):
    """What the policy makes of each datum, the posterior, and their total variation, its mean over the data."""
    shares = jax.jit(jax.vmap(lambda x: policy_shares(w, x)))(data)
    exact = jax.vmap(lambda x: jax.nn.softmax(log_sets(w["parts"], x)))(data)
    return shares, exact, float(0.5 * jnp.abs(shares - exact).sum(-1).mean())


# ---- training and numbers --------------------------------------------------------------------------------------------


def fitted(start, data, steps):
    adam = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(5e-3, steps)))
    options = dict(key=jax.random.key(0), steps=steps, data=data, batch_size=32, progress=False)
    return tg.fit(objective, start, adam, **options)


def picture(shares, exact):
    figure, axes = plt.subplots(3, 1, figsize=(4.8, 3.6), layout="constrained", sharex=True)
    for ax, mine, right in zip(axes, shares, exact, strict=False):
        ax.bar(jnp.arange(len(SETS)) - 0.2, right, 0.4, label="posterior")
        ax.bar(jnp.arange(len(SETS)) + 0.2, mine, 0.4, label="policy")
    axes[0].legend(fontsize=8)
    axes[0].set(title="three data: which parts made them")
    axes[-1].set(xlabel="set of parts")
    return figure


def main(*, quick=False):
    steps = 300 if quick else 2000
    k1, k2, k3, k4, k5 = jax.random.split(jax.random.key(0), 5)
    truth = 2.0 * jax.random.normal(k1, (PARTS, D))
    data = SETS[jax.random.randint(k2, (N,), 0, len(SETS))] @ truth + NOISE * jax.random.normal(k3, (N, D))
    net = eqx.nn.MLP(D + PARTS, PARTS, 64, 2, key=k4)
    guess = truth + jax.random.normal(k5, truth.shape)
    start = {"policy": {"net": net, "trust": jnp.full(PICK, 0.1)}, "parts": guess}
    known = tg.unwrap(fitted(start | {"parts": tg.frozen(truth)}, data, steps).params)
    shares, exact, off = compared(known, data[:SHOWN])
    rows = [("parts known: total variation from the posterior", off, 0.0, 0.2 if quick else 0.1)]
    if not quick:
        learned = fitted(start, data, steps).params
        lost = log_likelihood(exact_em(guess, data), data) - log_likelihood(learned["parts"], data)
        rows.append(("parts learned: the same", compared(learned, data[:SHOWN])[2], 0.0, 0.15))
        rows.append(("parts learned: nats a datum behind exact EM", float(lost), -0.1, 0.5))
    return rows, picture(shares, exact)


if __name__ == "__main__":
    run(main, __file__)
