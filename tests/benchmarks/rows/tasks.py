"""Rows of whole tasks, each of which says how long it took: `fit` again, automatic families, `simulate`, NUTS."""

import time

import jax
import numpy as np
import numpyro
import optax
from jax import numpy as jnp
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide
from numpyro.infer.reparam import LocScaleReparam

import tracegrad as tg
from tracegrad import dist

from .. import fit
from ..measure import Clocked, Row
from ..timing import seconds

STEPS, OF_EACH, CHAINS, DRAWS = 1000, 10, 4, 500
ERRORS = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECTS = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
KEY = jax.random.key(0)


def _warm(runs):
    """The seconds of functions that have run before, as functions."""
    for run in runs:
        seconds(run)
    return [lambda run=run: seconds(run) for run in runs]


def _fit_again(steps):
    """A fit that was done before in the same process: nothing is left to compile."""
    program = *fit.PROGRAMS["logistic regression"][:2], steps

    def model():
        w, rows = numpyro.param("w", jnp.zeros(20)), jax.random.randint(numpyro.prng_key(), (fit.BATCH,), 0, len(fit.Y))
        numpyro.factor("loss", -fit.logistic(None, {"w": w}, (fit.X[rows], fit.Y[rows])))

    svi = SVI(model, lambda: None, optax.adam(1e-3), Trace_ELBO())

    def theirs():
        return svi.run(fit.KEY, steps, progress_bar=False).params

    ours, hand, theirs = _warm([fit.ours(*program, kept=False), fit.by_hand(*program), theirs])
    return Clocked({"": ours}, hand, theirs)


def _processor_seconds(run):
    begun = time.process_time()
    run()
    return time.process_time() - begun


def _families(n):
    """Processor seconds for each site: the family, its first parameters, and the gradient of its bound as a jaxpr."""

    def target():
        @tg.gen
        def model():
            x = 0.0
            for i in range(n):
                x = tg.sample(f"x{i}", dist.Normal(0.9 * x, 1.0) if i % 2 else dist.LogNormal(0.0, 1.0))
            tg.sample("y", dist.Normal(x, 1.0))

        return tg.Target(model, (), {"y": 1.0})

    def family(make):
        def run():
            given = target()
            made = make(given)
            params = made.init(KEY)
            bound = tg.elbo(given.function, made.guide, given.observed)
            jax.make_jaxpr(jax.grad(lambda p: bound(KEY, (), (p,))))(params)

        return lambda: _processor_seconds(run) / n

    def unconstrained():
        space = tg.to_unconstrained(target())
        jax.make_jaxpr(jax.grad(space.log_prob))(jnp.zeros(space.size))

    def theirs():
        def model():
            x = 0.0
            for i in range(n):
                x = numpyro.sample(f"x{i}", dist.Normal(0.9 * x, 1.0) if i % 2 else dist.LogNormal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=1.0)

        svi = SVI(model, autoguide.AutoNormal(model), optax.adam(1e-3), Trace_ELBO())
        state = svi.init(KEY)
        jax.make_jaxpr(svi.update)(state)

    ours = {name: family(getattr(tg.auto, name)) for name in ("mean_field", "full_rank")}
    ours["to_unconstrained"] = lambda: _processor_seconds(unconstrained) / n
    return Clocked(ours, None, lambda: _processor_seconds(theirs) / n)


def _simulate(n):
    """One trace without `jit`: a normal of a normal, and n observations of it."""

    @tg.gen
    def program():
        mu = tg.sample("mu", dist.Normal(0.0, 1.0))
        theta = tg.sample("theta", dist.Normal(mu, 1.0))
        tg.sample("y", dist.Normal(theta, 1.0).expand([n]).to_event(1))

    def hand():
        keys = jax.random.split(KEY, 3)
        mu = jax.random.normal(keys[0])
        theta = mu + jax.random.normal(keys[1])
        y = theta + jax.random.normal(keys[2], (n,))
        logp = -0.5 * (mu**2 + (theta - mu) ** 2 + ((y - theta) ** 2).sum()) - 0.5 * (n + 2) * jnp.log(2.0 * jnp.pi)
        return mu, theta, y, logp

    def their_program():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0).expand([n]).to_event(1))

    def theirs():
        trace = handlers.trace(handlers.seed(their_program, KEY)).get_trace()
        sites = trace.values()
        return [site["value"] for site in sites], sum(site["fn"].log_prob(site["value"]) for site in sites)

    def ours():
        trace = program.simulate(KEY)
        return trace.choices, trace.logp

    ours, hand, theirs = _warm([ours, hand, theirs])
    return Clocked({"": ours}, hand, theirs)


def _eight_schools(draws):
    """Seconds for each effective draw of the worst parameter; compilation is a part of it, as it is of a user's day."""

    @tg.gen
    def schools():
        mu = tg.sample("mu", dist.Normal(0.0, 5.0))
        tau = tg.sample("tau", dist.HalfCauchy(5.0))
        theta = tg.sample("theta", dist.Normal(mu, tau).expand([len(ERRORS)]).to_event(1))
        tg.sample("y", dist.Normal(theta, ERRORS).to_event(1))

    def their_schools():
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", len(ERRORS)):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)

    def an_effective_draw(run):
        begun = time.perf_counter()
        found = jax.tree.map(np.asarray, run())
        taken = time.perf_counter() - begun
        return taken / min(np.min(effective_sample_size(x)) for x in jax.tree.leaves(found))

    def ours():
        target = tg.Target(schools.with_coordinates({"theta": tg.noncentred()}), (), {"y": EFFECTS})
        return tg.nuts(target, key=KEY, draws=draws, warmup=draws, chains=CHAINS, progress=False).choices

    def theirs():
        program = handlers.reparam(their_schools, config={"theta": LocScaleReparam(0)})
        options = {"num_warmup": draws, "num_samples": draws, "num_chains": CHAINS}
        mcmc = MCMC(NUTS(program), **options, chain_method="vectorized", progress_bar=False)
        mcmc.run(KEY)
        found = mcmc.get_samples(group_by_chain=True)
        return {name: found[name] for name in ("mu", "tau", "theta")}

    return Clocked({"": lambda: an_effective_draw(ours)}, None, lambda: an_effective_draw(theirs))


ROWS = {
    "fit again, steps": Row(_fit_again, (STEPS,)),
    "automatic families, a site": Row(_families, (OF_EACH, 3 * OF_EACH)),
    "simulate without jit": Row(_simulate, (OF_EACH,)),
    "NUTS on eight schools, an effective draw": Row(_eight_schools, (DRAWS,)),
}
