"""Automatic variational families: `auto.mean_field(target)` and its kin.

Each is an object with `init(key)`, which gives parameters, and `guide`, a generative function of them over the latent
addresses of the target, for every objective that takes one.
"""

from ._auto import Family as Family
from ._auto_flow import flow as flow
from ._auto_normal import full_rank as full_rank
from ._auto_normal import low_rank as low_rank
from ._auto_normal import mean_field as mean_field
from ._auto_point import delta as delta
from ._auto_point import laplace as laplace
