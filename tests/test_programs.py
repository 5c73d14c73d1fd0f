"""Programs as users write them, with nothing added but what they leave open: models, families, objectives, training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tracegrad as tg
from tracegrad import dist


@pytest.fixture(autouse=True)
def _ordinary_promotion():
    """Users run under JAX's defaults, and these programs mix integers and floats as users do."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


KEY = jax.random.key(0)

# ---- a model, a family, an objective of one's own -------------------------------------------------------------------


class Decoder(eqx.Module):
    weight: jax.Array
    name: str = eqx.field(static=True, default="decoder")

    def __call__(self, z):
        return self.weight @ z


class Encoder(eqx.Module):
    net: eqx.nn.MLP

    def __call__(self, x):
        loc, log_scale = jnp.split(self.net(x), 2)
        return loc, jnp.exp(log_scale)


@tg.gen
def model(decoder):
    z = tg.sample("z", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
    return tg.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1))


@tg.gen
def guide(encoder, x):
    loc, scale = encoder(x)
    tg.sample("z", dist.Normal(loc, scale).to_event(1))


@tg.expectation
def elbo(key, params, x):
    q = guide.simulate(key, params["encoder"], x)
    logp, _ = model.assess(q.choices | {"x": x}, params["decoder"])
    return logp - q.logp


def loss(key, params, batch):
    return -jnp.mean(jax.vmap(lambda k, x: elbo(k, params, x))(jax.random.split(key, len(batch)), batch))


def make_params():
    one, two = jax.random.split(jax.random.key(1))
    encoder = Encoder(eqx.nn.MLP(6, 20, 8, 1, key=one))
    return {"encoder": encoder, "decoder": Decoder(0.1 * jax.random.normal(two, (6, 10)))}


RATES = jnp.array([[0.9, 0.1, 0.9, 0.1, 0.9, 0.1]])
IMAGES = jax.random.bernoulli(jax.random.key(2), RATES, (24, 6)).astype(jnp.float32)


def hand_written(eps, params, x):
    """The same objective without the language."""
    loc, scale = params["encoder"](x)
    z = loc + scale * eps
    logits = params["decoder"](z)
    log_prior = jax.scipy.stats.norm.logpdf(z).sum()
    log_likelihood = (x * logits - jax.nn.softplus(logits)).sum()
    return log_prior + log_likelihood - jax.scipy.stats.norm.logpdf(z, loc, scale).sum()


def test_own_elbo_has_the_value_and_gradient_of_the_same_code_by_hand():
    params, x = make_params(), IMAGES[0]
    value, grads = eqx.filter_jit(eqx.filter_value_and_grad(lambda p: elbo(KEY, p, x)))(params)
    q = guide.simulate(KEY, params["encoder"], x)
    loc, scale = params["encoder"](x)
    eps = (q.choices["z"] - loc) / scale
    want, want_grads = eqx.filter_jit(eqx.filter_value_and_grad(lambda p: hand_written(eps, p, x)))(params)
    assert jnp.allclose(value, want, rtol=1e-5)
    assert eqx.tree_equal(grads, want_grads, rtol=1e-3, atol=1e-4)


def test_value_and_grad_of_arrays_only():
    arrays = {"encoder": jnp.zeros(10), "decoder": 0.1 * jnp.ones((6, 10))}

    @tg.gen
    def guide(loc, x):
        tg.sample("z", dist.Normal(loc, 1.0).to_event(1))

    @tg.gen
    def model(weight):
        z = tg.sample("z", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
        return tg.sample("x", dist.Bernoulli(logits=weight @ z).to_event(1))

    @tg.expectation
    def elbo(key, params, x):
        q = guide.simulate(key, params["encoder"], x)
        logp, _ = model.assess(q.choices | {"x": x}, params["decoder"])
        return logp - q.logp

    value, grads = jax.value_and_grad(elbo, argnums=1)(KEY, arrays, IMAGES[0])
    eps = guide.simulate(KEY, arrays["encoder"], None).choices["z"]

    def by_hand(params):
        functions = {"encoder": lambda _: (params["encoder"], 1.0), "decoder": params["decoder"].dot}
        return hand_written(eps, functions, IMAGES[0])

    want, want_grads = jax.value_and_grad(by_hand)(arrays)
    assert jnp.allclose(value, want, rtol=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3, atol=1e-5), grads, want_grads))


@pytest.mark.slow
def test_batched_loss_is_the_mean_over_examples():
    params = make_params()
    keys = jax.random.split(KEY, len(IMAGES))
    one = jax.jit(lambda k, x: elbo(k, params, x))
    each = [one(k, x) for k, x in zip(keys[:4], IMAGES[:4], strict=True)]
    lanes = jax.jit(jax.vmap(one))(keys, IMAGES)
    assert jnp.allclose(lanes[:4], jnp.stack(each), rtol=1e-4)
    assert jnp.allclose(eqx.filter_jit(loss)(KEY, params, IMAGES), -lanes.mean(), rtol=1e-5)


@pytest.mark.slow
def test_fit_trains_it():
    params = make_params()
    result = tg.fit(loss, params, optax.adam(1e-2), key=KEY, steps=300, data=IMAGES, batch_size=12, progress=False)
    assert result.history.shape == (300,)
    before, after = (eqx.filter_jit(loss)(KEY, p, IMAGES) for p in (params, result.params))
    # Whoever knows nothing of the pixels pays log 2 for each.
    nothing_known = 6 * np.log(2.0)
    assert float(before) > nothing_known
    assert float(after) < nothing_known - 0.5
    assert result.params["decoder"].name == "decoder"


# ---- discrete choices, estimators from inside and from outside ------------------------------------------------------


@tg.gen
def discrete(w):
    k = tg.sample("k", dist.Categorical(logits=w["k"]), estimator=tg.enum())
    b = tg.sample("b", dist.Bernoulli(logits=w["b"][k]))
    return tg.sample("y", dist.Normal(w["m"][k] + b, 1.0))


W = {"k": jnp.array([0.1, -0.4, 0.3]), "b": jnp.array([0.2, 1.0, -1.0]), "m": jnp.array([-1.0, 0.5, 2.0])}


def exact_second_moment(w):
    """E[y^2] of `discrete`, summed over its choices."""
    p, b = jax.nn.softmax(w["k"]), jax.nn.sigmoid(w["b"])
    return jnp.sum(p * ((1 - b) * (1 + w["m"] ** 2) + b * (1 + (w["m"] + 1) ** 2)))


better = discrete.with_estimators({"b": tg.mvd()})
ours = discrete.with_estimators({"*": tg.reinforce(baseline=3.0), "k": tg.local_expectation()})


@pytest.mark.table
@pytest.mark.parametrize("program", [discrete, better, ours], ids=["as written", "better", "ours"])
def test_the_same_program_with_other_estimators_has_the_same_gradient(program):
    objective = tg.expectation(lambda key, w: program.simulate(key, w).retval ** 2)
    gradient = jax.jit(jax.vmap(jax.grad(objective, argnums=1), in_axes=(0, None)))
    want = jax.grad(exact_second_moment)(W)

    def z_scores(key, n):
        draws = jax.tree.leaves(gradient(jax.random.split(key, n), W))
        return max(
            float(jnp.max(jnp.abs(d.mean(0) - x) / (d.std(0) / np.sqrt(n) + 1e-6)))
            for d, x in zip(draws, jax.tree.leaves(want), strict=True)
        )

    assert z_scores(jax.random.key(5), 100_000) < 4 or z_scores(jax.random.key(6), 1_600_000) < 5


def test_operations_on_a_discrete_program():
    trace = discrete.simulate(KEY, W)
    assert trace.choices["b"].dtype == jnp.int32
    assert trace.retval == trace.choices["y"]
    assert trace.args[0].keys() == W.keys()
    logp, retval = discrete.assess(trace.choices, W)
    assert jnp.allclose(logp, trace.logp)
    logp, retval = discrete.assess({"k": 1, "b": 0, "y": 0.3}, W)
    by_hand = jax.nn.log_softmax(W["k"])[1] + jax.nn.log_sigmoid(-W["b"][1]) + jax.scipy.stats.norm.logpdf(0.3, 0.5)
    assert jnp.allclose(logp, by_hand)
    assert retval == jnp.float32(0.3)
    trace, log_weight = discrete.generate(KEY, {"b": 1}, W)
    assert jnp.allclose(log_weight, jax.nn.log_sigmoid(W["b"][trace.choices["k"]]))
    new, log_weight, discarded = discrete.update(KEY, trace, {"y": 1.0}, W)
    assert jnp.allclose(log_weight, new.logp - trace.logp)
    assert jnp.allclose(discarded["y"], trace.choices["y"])


# ---- nesting and control flow ---------------------------------------------------------------------------------------


@tg.gen
def step(state, x):
    z = tg.sample("z", dist.Bernoulli(probs=jnp.where(state, 0.9, 0.2)))
    tg.sample("y", dist.Normal(2.0 * z - 1.0 + x, 1.0))
    return z, z


@tg.gen
def hmm(xs):
    _, zs = tg.sample("steps", step.scan()(jnp.array(False), xs))
    return zs


@tg.gen
def cluster(mu, x):
    z = tg.sample("z", dist.Categorical(logits=jnp.zeros(3)))
    tg.sample("y", dist.Normal(mu[z] + x, 1.0))


@tg.gen
def model_a(mu):
    return tg.sample("a", dist.Normal(mu[0], 1.0))


@tg.gen
def model_b(mu):
    return tg.sample("b", dist.Normal(mu[1], 2.0))


@tg.gen
def mixture(xs):
    mu = tg.sample("mu", dist.Normal(jnp.zeros(3), 5.0).to_event(1))
    tg.sample("points", cluster.vmap(in_axes=(None, 0))(mu, xs))
    tg.sample("branch", tg.cond(jnp.all(xs > 0), model_a, model_b)(mu))


def test_a_hidden_markov_model_agrees_with_the_forward_algorithm():
    xs, ys = jnp.array([0.1, -0.2, 0.3, 0.0]), jnp.array([1.0, -1.2, 0.4, 2.0])
    trace = hmm.simulate(KEY, xs)
    assert trace.choices["steps"]["z"].shape == (4,)
    assert jnp.array_equal(trace.retval, trace.choices["steps"]["z"])

    joint = jax.jit(jax.vmap(lambda zs: hmm.assess({"steps": {"z": zs, "y": ys}}, xs)[0]))
    paths = jnp.stack(jnp.meshgrid(*[jnp.arange(2)] * 4, indexing="ij"), -1).reshape(-1, 4)
    alpha = np.array([1.0, 0.0])
    for x, y in zip(np.asarray(xs), np.asarray(ys), strict=True):
        to = np.array([[0.8, 0.2], [0.1, 0.9]])
        emit = np.exp(-0.5 * (y - (np.array([-1.0, 1.0]) + x)) ** 2) / np.sqrt(2 * np.pi)
        alpha = (alpha @ to) * emit
    assert jnp.allclose(jax.nn.logsumexp(joint(paths)), np.log(alpha.sum()), rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_mixture_with_a_plate_and_a_branch(sign):
    xs = sign * jnp.array([1.0, 2.0, 3.0, 4.0])
    trace = mixture.simulate(KEY, xs)
    assert trace.choices["points"]["z"].shape == (4,)
    mu, points = trace.choices["mu"], trace.choices["points"]
    norm = jax.scipy.stats.norm.logpdf
    a, b = trace.choices["branch"]["a"], trace.choices["branch"]["b"]
    taken = norm(a, mu[0], 1.0) if sign > 0 else norm(b, mu[1], 2.0)
    by_hand = norm(mu, 0.0, 5.0).sum() - 4 * jnp.log(3.0) + norm(points["y"], mu[points["z"]] + xs, 1.0).sum() + taken
    assert jnp.allclose(trace.logp, by_hand, rtol=1e-5)


@tg.gen
def cone(w):
    tg.sample("y", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0))


@tg.gen
def family(w):
    tg.sample("z", dist.Normal(w["m"], jnp.exp(w["s"])))


def log_weight(key, w, x):
    q = family.simulate(key, w)
    return cone.assess(q.choices | {"y": x}, w)[0] - q.logp


def iwelbo(key, w, x, n=50):
    logw = jax.vmap(lambda k: log_weight(k, w, x))(jax.random.split(key, n))
    return jax.nn.logsumexp(logw) - jnp.log(n)


def test_plain_jax_control_flow_around_simulate_and_assess():
    w, x = {"m": jnp.array(1.0), "s": jnp.array(-0.5 * np.log(2.0))}, 2.0
    # At the exact posterior, N(1, 1/2), every particle weighs p(x), N(2; 0, 2), whatever it is.
    value, grads = jax.jit(jax.value_and_grad(tg.expectation(iwelbo), argnums=1))(KEY, w, x)
    assert jnp.allclose(value, jax.scipy.stats.norm.logpdf(2.0, 0.0, np.sqrt(2.0)), rtol=1e-5)
    assert set(grads) == {"m", "s"}
    away = {"m": jnp.array(0.0), "s": jnp.array(0.0)}
    many = jax.jit(jax.vmap(jax.grad(tg.expectation(iwelbo), argnums=1), in_axes=(0, None, None)))
    keys = jax.random.split(KEY, 2_000)
    assert float(many(keys, away, x)["m"].mean()) > 0.0


def test_the_librarys_own_objectives_are_the_same_programs():
    w = {"m": jnp.array(0.3), "s": jnp.array(0.1)}
    bound, weighted = tg.elbo(cone, family, {"y": 2.0}), tg.iwelbo(cone, family, {"y": 2.0}, n=8)
    keys = jax.random.split(KEY, 20_000)
    one = jax.jit(jax.vmap(lambda k: bound(k, (w,), (w,))))(keys)
    eight = jax.jit(jax.vmap(lambda k: weighted(k, (w,), (w,))))(keys)
    exact = float(jax.scipy.stats.norm.logpdf(2.0, 0.0, np.sqrt(2.0)))
    m, s2 = 0.3, np.exp(0.2)
    closed = -0.5 * (m**2 + s2) - 0.5 * ((2 - m) ** 2 + s2) - np.log(2 * np.pi) + 0.5 * np.log(2 * np.pi * np.e * s2)
    assert abs(float(one.mean()) - closed) < 4 * float(one.std()) / np.sqrt(len(keys))
    assert closed < float(eight.mean()) < exact
