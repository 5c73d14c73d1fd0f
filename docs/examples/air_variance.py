"""How noisy is the gradient of each site's parameters, under each way to train?"""

import equinox as eqx
import jax
import jax.numpy as jnp
from air_objectives import METHODS

import tracegrad as tg

HEADS = {  # the last layers before the choices of each site
    "pres": lambda params: params["recogniser"].presence,
    "where": lambda params: params["recogniser"].place,
    "what": lambda params: params["recogniser"].content.layers[-1],
}


def with_heads(params, heads):
    return eqx.tree_at(lambda p: [HEADS[site](p) for site in HEADS], params, [heads[site] for site in HEADS])


def variances(name, params, images, *, draws, key):
    """The variance of a method's gradient over keys, by site, and milliseconds of one gradient: by compare_estimators.

    A batch of images is fixed. The variance is the sum over the weights of the last layer before each site.
    """
    method = METHODS[name]
    objective = method.objective()
    if method.state is not None:  # as it is after many steps: the mean of what it averages
        keys = jax.random.split(key, 8)
        settled = method.state.update(jnp.mean(jax.vmap(lambda k: METHODS["mvd"].objective()(k, params, images))(keys)))

    arrays, static = eqx.partition(params, eqx.is_array)

    def of_heads(key, heads):
        # Behind the barrier XLA does not see constants: it would multiply them as it compiles, slowly.
        held = eqx.combine(jax.lax.optimization_barrier(arrays), static)
        filled = with_heads(held, heads)
        return objective(key, filled, images) if method.state is None else objective(key, filled, images, settled)[0]

    heads = {site: HEADS[site](params) for site in HEADS}
    (row,) = tg.compare_estimators(of_heads, heads, key=key, sites={}, draws=draws).rows
    by_site = {site: sum(v for leaf, v in row["by_leaf"].items() if f"'{site}'" in leaf) for site in HEADS}
    return by_site, row["milliseconds"]


def variance_table(places, images, *, draws=100, key=None, methods=tuple(METHODS)):
    """A table of gradient variances at each of several parameters, for each method."""
    key = jax.random.key(0) if key is None else key
    lines = [f"Variance of the gradient of {len(images)} scenes, by site (last layer), over {draws} keys"]
    for where, params in places.items():
        lines.append(f"\n{where:20}" + "".join(f"{site:>12}" for site in HEADS) + f"{'ms':>10}")
        for name in methods:
            by_site, ms = variances(name, params, images, draws=draws, key=key)
            lines.append(f"{name:20}" + "".join(f"{v:12.4g}" for v in by_site.values()) + f"{ms:10.1f}")
    return "\n".join(lines)
