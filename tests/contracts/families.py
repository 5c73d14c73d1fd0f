"""Contracts of automatic families."""

from tracegrad import auto

from .kinds import KEY, Given, contract, count, key, target
from .programs import FAMILY, POSTERIOR, family

TABLE = {
    "auto.delta": contract(lambda target: auto.delta(target).init(KEY), target=target(POSTERIOR)),
    "auto.mean_field": family(auto.mean_field),
    "auto.full_rank": family(auto.full_rank),
    "auto.low_rank": family(auto.low_rank, rank=count(1)),
    "auto.flow": family(auto.flow)._replace(untried=("make",)),
    "auto.laplace": contract(
        lambda **arguments: auto.laplace(**arguments).init(KEY),
        target=target(POSTERIOR),
        starts=count(1),
        steps=count(2),
        initial=Given("initial", {"z": 0.5}, optional=True),
    ),
    "auto.Family.init": contract(FAMILY.init, key=key()),
}
