"""Contracts of objectives."""

import tracegrad as tg
from tracegrad import dist

from .kinds import (
    KEY,
    Given,
    all_choices,
    callable_,
    contract,
    count,
    function,
    maybe_function,
    name,
    number,
    positive,
    selection,
)
from .programs import DRAWN, SCALES, STEPS, X, bound, guide, model, proposal, step, step_guide, switches, switches_guide

TABLE = {
    "elbo": bound(tg.elbo, scale_both=SCALES),
    "iwelbo": bound(tg.iwelbo, n=count(2)),
    "renyi": bound(tg.renyi, alpha=number(0.5), n=count(2)),
    "cubo": bound(tg.cubo, order=number(2.0), n=count(2)),
    "tvo": bound(tg.tvo, betas=Given("shares", (0.0, 0.5)), n=count(2)),
    "dreg": bound(tg.dreg, alpha=number(0.0), n=count(2)),
    "dreg_wake_phi": bound(tg.dreg_wake_phi, n=count(2)),
    "sticking_the_landing": bound(tg.sticking_the_landing, n=count(1), scale_both=SCALES),
    "forward_kl": bound(tg.forward_kl, n=count(2)),
    "symmetric_kl": bound(tg.symmetric_kl, n=count(2)),
    "f_divergence": bound(
        tg.f_divergence, f=callable_(lambda r: (r - 1.0) ** 2), n=count(2), log_z=Given("number", -1.5, optional=True)
    ),
    "jensen_shannon": bound(tg.jensen_shannon, n=count(2), log_z=Given("number", -1.5, optional=True)),
    "trajectory_balance": bound(
        tg.trajectory_balance, at=(KEY, (), (0.0,), -2.5), n=count(2), proposal=maybe_function(proposal)
    ),
    "log_variance": bound(tg.log_variance, n=count(2), proposal=maybe_function(proposal)),
    "wake_theta": bound(tg.wake_theta, n=count(2)),
    "wake_phi": bound(tg.wake_phi, n=count(2)),
    "vimco": bound(tg.vimco, of=(switches, switches_guide, X), n=count(2), mean=name("geometric")),
    "vargrad": bound(tg.vargrad, of=(switches, switches_guide, X), n=count(2)),
    "sleep": contract(
        lambda **arguments: tg.sleep(**arguments)(KEY, (), (0.5,)),
        model=function(model),
        guide=function(tg.gen(lambda observed, w: tg.sample("z", dist.Normal(w * observed["x"], 1.0)))),
        observe=selection("x"),
    ),
    "smc_bound": bound(
        tg.smc_bound,
        of=(step.scan(2), step_guide, STEPS),
        at=(KEY, (0.0, None), (0.5,)),
        n=count(2),
        resampling=name("multinomial"),
    ),
    "smc_wake_phi": bound(
        tg.smc_wake_phi, of=(step.scan(2), step_guide, STEPS), at=(KEY, (0.0, None), (0.5,)), n=count(2)
    ),
    "nested_vi": contract(
        lambda **arguments: tg.nested_vi(**arguments)(KEY, (), (0.5,)),
        log_gammas=Given("functions", [lambda c: -(c["z"] ** 2), lambda c: -((c["z"] - 1.0) ** 2)]),
        forwards=Given("functions", [guide, tg.gen(lambda c, w: tg.sample("z", dist.Normal(w * c["z"], 1.0)))]),
        reverses=Given("functions", [tg.gen(lambda c, w: tg.sample("z", dist.Normal(w * c["z"], 1.0)))]),
        n=count(2),
    ),
    "mmd": contract(
        lambda **arguments: tg.mmd(**arguments)(KEY, (0.0,)),
        "kernel",
        function=function(guide),
        samples=all_choices(DRAWN),
        n=count(2),
        bandwidth=positive(1.0),
    ),
    "energy_distance": contract(
        lambda **arguments: tg.energy_distance(**arguments)(KEY, (0.0,)),
        function=function(guide),
        samples=all_choices(DRAWN),
        n=count(2),
    ),
}
