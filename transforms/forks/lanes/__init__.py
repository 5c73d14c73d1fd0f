"""Many versions of one program, each other than the base in one lane: run once where lanes do not touch each other.

The program has an input whose leading axis is one of lanes. Version j has another entry in lane j, and the base's in
all others. To run each version by itself costs as many runs as there are lanes. `versions` costs two as long as lanes
stay apart: one of the base, and one with all lanes changed; entry j of the second is what version j has in place of
entry j of the first. Only where lanes meet is every version computed by itself. Three lanes, in each of which 10 is
tried:

    >>> import jax.numpy as jnp
    >>> from tracegrad.transforms.forks.lanes import versions
    >>> def program(x):                  # varies          base        all changed     versions 0, 1 and 2
    ...     y = x * x                    # along axis 0    [1 4 9]     [100 100 100]   [100 4 9] [1 100 9] [1 4 100]
    ...     total = y.sum()              # freely          14                          14 + [99 96 91]
    ...     rest = total - y             # freely                                      each by itself from here on
    ...     return total, rest.max()
    >>> total, largest = versions(program, jnp.array([1.0, 2.0, 3.0]), jnp.array([10.0, 10.0, 10.0]))
    >>> total.tolist(), largest.tolist()
    ([113.0, 110.0, 105.0], [109.0, 109.0, 104.0])

The versions of y are not computed: to have them both runs are enough. `largest` is that of `[13 109 104]` in version 0.

`_value` has the forms that a value's versions take, `_ways` finds out how each value varies, `_parts` sorts equations
by how they can be run, `_run` runs them, `_sums` sums over lanes, and `_loops` runs loops in whose bodies lanes meet.

May import: `program`, `analysis`. Open `_value.py` first, then `_run.py`.
"""

from ._run import versions as versions
