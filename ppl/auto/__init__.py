"""Automatic variational families: `auto.mean_field(target)` and its kin.

Each is an object with `init(key)`, which gives parameters, and `guide`, a generative function of them over the latent
addresses of the target, for every objective that takes one.

What fits most posteriors: Laplace's approximation first, a family around it, a learning rate that decays to nothing,
and k-hat to say whether to believe it. `tracegrad.vi(target)` does that, with a rule for when to stop, and says what it
did; by hand it is:

    normal = auto.laplace(target).init(key)
    family = auto.flow(target, around=normal)       # or full_rank, with `sticking_the_landing` for `elbo`
    bound = elbo(target.function, family.guide, target.observed)
    def objective(key, params):
        return jnp.mean(jax.vmap(lambda k: bound(k, target.args, params))(jax.random.split(key, 32)))
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 2000))
    run = fit(objective, family.init(key), optimizer, key=key, steps=2000, maximize=True)
    importance_sampling(target, family.guide, run.params, key=key, n=5000).k_hat      # below 0.7
"""

from ._family import Family
from ._flow import flow
from ._normal import full_rank, low_rank, mean_field
from ._point import delta, laplace

__all__ = ["mean_field", "full_rank", "low_rank", "delta", "laplace", "flow", "Family"]


def __dir__():
    return list(__all__)
