"""Many versions of one program, each other than the base in one lane: run once where lanes do not touch each other.

The program has an input `on`, one entry per lane. In the base none is on; in version j lane j alone is. To run it for
each version by itself, `jax.vmap(program)(jnp.eye(lanes, dtype=bool))`, costs as many runs as there are lanes.
`versions` costs two, as long as lanes stay apart: one with none on, one with all on; entry j of the second is what
version j has in place of entry j of the first. Only where lanes meet is every version computed by itself. Three lanes:

    >>> import jax.numpy as jnp
    >>> from tracegrad.transforms.forks.lanes import versions
    >>> XS = jnp.array([1.0, 2.0, 3.0])
    >>> def program(on):                        # varies          base      all on          versions 0, 1 and 2
    ...     x = jnp.where(on, 10.0, XS)         # along axis 0    [1 2 3]   [10 10 10]      [10 2 3] [1 10 3] [1 2 10]
    ...     y = x * x                           # along axis 0    [1 4 9]   [100 100 100]   (not computed, as for x)
    ...     total = y.sum()                     # freely          14                        14 + (99, 96, 91)
    ...     rest = total - y                    # freely                                    under `vmap`, from here on
    ...     return total, rest.max()
    >>> total, largest = versions(program, 3)
    >>> total.tolist(), largest.tolist()
    ([113.0, 110.0, 105.0], [109.0, 109.0, 104.0])

`_value` has the forms that a value's versions take, `_ways` finds out how each value varies, `_parts` sorts equations
by how they can be run, `_run` runs them, `_sums` sums over lanes, and `_loops` runs loops in whose bodies lanes meet.

May import: `program`, `analysis`. Open `_value.py` first, then `_run.py`.
"""

from ._run import versions as versions
