"""Contracts of densities, targets, algorithms and posteriors."""

import jax
from jax import numpy as jnp

import tracegrad as tg

from .kinds import (
    KEY,
    Given,
    algorithm,
    all_choices,
    callable_,
    contract,
    count,
    flag,
    floats,
    function,
    key,
    maybe_count,
    maybe_function,
    maybe_key,
    name,
    selection,
    target,
)
from .programs import (
    CHAIN,
    CHAINS,
    DRAWN,
    FAMILY,
    FITTED,
    OWN,
    POINT,
    POSTERIOR,
    SPACE,
    TWICE,
    WEIGHTED,
    X,
    guide,
    model,
    of_posterior,
    proposal,
    run_with,
    sampler,
    switches,
)

TABLE = {
    "Target": contract(
        lambda function, observed: tg.Target(function, (), observed).log_prob({"z": 0.0}),
        "args",
        "kwargs",
        "path",
        function=function(model),
        observed=Given("choices", X, optional=True),
    ),
    "Target.log_prob": contract(
        lambda latents, key: POSTERIOR.log_prob(latents, key=key), latents=all_choices({"z": 0.0}), key=maybe_key()
    ),
    "Target.draw": contract(lambda key: POSTERIOR.draw(key)[1], key=key()),
    "Target.without_observed": contract(POSTERIOR.without_observed, choices=Given("dicts", {"z": 0.0, "x": 1.0})),
    "marginal": contract(
        lambda function, keep, algorithm: tg.marginal(function, keep, algorithm).simulate(KEY).logp,
        function=function(model),
        keep=selection("x"),
        algorithm=algorithm(tg.importance(2)),
    ),
    "normalize": contract(
        lambda target, algorithm: tg.normalize(target, algorithm).simulate(KEY).logp,
        target=target(POSTERIOR),
        algorithm=algorithm(tg.importance(2)),
    ),
    "importance": contract(
        run_with(lambda **arguments: tg.importance(proposal_args=(), **arguments)),
        "proposal_args",
        n=count(2),
        proposal=maybe_function(proposal),
        **TWICE,
    ),
    "sir": contract(run_with(tg.sir), "proposal_args", n=count(2), proposal=function(proposal), **TWICE),
    "smc": contract(
        run_with(tg.smc, CHAIN),
        "proposal",
        "proposal_args",
        n=count(2),
        resampling=name("multinomial"),
        ess_threshold=Given("share", 0.5, optional=True),
        **TWICE,
    ),
    "kalman": contract(run_with(tg.kalman, CHAIN), parallel=flag(False)),
    "exact": contract(run_with(tg.exact, tg.Target(switches, (), X)), **TWICE),
    "importance_sampling": contract(
        lambda **arguments: tg.importance_sampling(**arguments).log_evidence,
        "proposal_args",
        target=target(POSTERIOR),
        proposal=maybe_function(proposal),
        key=key(),
        n=count(4),
        **TWICE,
    ),
    "Fitted": contract(
        lambda target, guide: tg.Fitted(target, guide, 0.0).sample(KEY, 2),
        "args",
        target=target(POSTERIOR),
        guide=function(guide),
    ),
    "Fitted.weighted": contract(FITTED.weighted, key=key(), n=count(2), **TWICE),
    **of_posterior("Posterior", OWN),
    **of_posterior("Fitted", FITTED),
    **of_posterior("WeightedDraws", WEIGHTED, "n"),
    **of_posterior("Draws", CHAINS, "n"),
    "auto.Family.posterior": contract(
        lambda params: FAMILY.posterior(params).sample(KEY, 2), params=all_choices(FAMILY.init(KEY))
    ),
    "vi": contract(
        lambda **arguments: tg.vi(**arguments).params,
        target=target(POSTERIOR),
        family=name("mean_field"),
        key=key(),
        steps=count(1),
        draws=maybe_count(1),
        learning_rate=Given("positive", 0.1, optional=True),
        initial=Given("initial", {"z": 0.5}, optional=True),
        restarts=count(1),
        correct=flag(False),
        progress=flag(False),
    ),
    "evaluate": contract(
        lambda objective, key, draws, chunk_size: (
            tg.evaluate(objective, key=key, draws=draws, chunk_size=chunk_size).mean
        ),
        "args",
        objective=callable_(lambda key: jax.random.normal(key)),
        key=key(),
        draws=count(4),
        **TWICE,
    ),
    "sbc": contract(
        lambda **arguments: tg.sbc(model, **arguments).ranks["z"],
        "model",
        "args",
        observed=selection("x"),
        procedure=Given("procedure", lambda key, target: tg.Fitted(target, guide, 0.0)),
        key=key(),
        n=count(3),
        draws=count(4),
        level=Given("share", 0.01),
        loop=flag(False),
        progress=flag(False),
    ),
    "model_graph": contract(
        lambda model: tg.model_graph(model, observed="x").edges,
        "args",
        "observed",
        model=function(model),
    ),
    "plot_model": contract(
        lambda model: len(tg.plot_model(model, observed="x").texts), "args", "observed", "ax", model=function(model)
    ),
    "plot_history": contract(
        lambda fitted: len(tg.plot_history(fitted).lines), "ax", fitted=Given("history", [1.0, 2.0])
    ),
    "predictive_check": contract(
        lambda **arguments: tg.predictive_check(**arguments).p,
        posterior=Given("posterior", FITTED),
        statistic=callable_(lambda data: data["x"]),
        key=key(),
        n=count(3),
    ),
    "shrinkage": contract(
        lambda **arguments: tg.shrinkage(**arguments)["z"], posterior=Given("posterior", FITTED), key=key(), n=count(3)
    ),
    "predictive": contract(
        lambda model, draws, key, n, chunk_size: (
            tg.predictive(model, key=key, n=n, chunk_size=chunk_size),
            tg.predictive(model, draws=draws, key=key, n=n, chunk_size=chunk_size),
        ),
        "args",
        "kwargs",
        model=function(model),
        draws=Given("stacked", DRAWN, optional=True),
        key=key(),
        n=count(3),
        **TWICE,
    ),
    "log_likelihood": contract(
        tg.log_likelihood, target=target(POSTERIOR), draws=Given("stacked", DRAWN), key=maybe_key(), **TWICE
    ),
    "WeightedDraws.mean": contract(
        lambda fn: tg.WeightedDraws(DRAWN, jnp.zeros(3)).mean(fn), fn=Given("callable", lambda c: c["z"], optional=True)
    ),
    "WeightedDraws.resample": contract(
        lambda key, n: tg.WeightedDraws(DRAWN, jnp.zeros(3)).resample(key, n), key=key(), n=count(2)
    ),
    "nuts": sampler(tg.nuts),
    "hmc": sampler(tg.hmc, steps=count(2)),
    "to_arviz": contract(
        lambda **arguments: tg.to_arviz(**arguments)["log_likelihood"]["x"].values,
        posterior=Given("posterior", FITTED),
        key=key(),
        n=count(2),
        groups=Given("groups", ["log_likelihood", "posterior_predictive"], optional=True),
    ),
    "to_unconstrained": contract(lambda target: tg.to_unconstrained(target).constrain(POINT), target=target(POSTERIOR)),
    "Unconstrained.around": contract(
        lambda params: SPACE.around(params).constrain(POINT), params=Given("choices", FAMILY.init(KEY), optional=True)
    ),
    "Unconstrained.backward": contract(SPACE.backward, choices=all_choices({"z": 0.3})),
    "Unconstrained.unconstrain": contract(SPACE.unconstrain, choices=all_choices({"z": 0.3})),
    "Unconstrained.forward": contract(SPACE.forward, coordinates=all_choices({"z": jnp.array(0.3)})),
    "Unconstrained.ravel": contract(SPACE.ravel, coordinates=all_choices({"z": jnp.array(0.3)})),
    "Unconstrained.constrain": contract(SPACE.constrain, point=floats(POINT)),
    "Unconstrained.log_prob": contract(SPACE.log_prob, point=floats(POINT)),
    "Unconstrained.unravel": contract(SPACE.unravel, point=floats(POINT)),
}
