"""What the language uses of the transformation beyond its public names: this list, and nothing else.

The two folders meet at two doors. `tracegrad.transforms` is for everybody, with a reference page and a promise. What is
listed here is for `tracegrad` alone: it may change with any version, and nobody else should import it.
"""

from ._arguments import finite_real as finite_real
from ._arguments import flag as flag
from ._arguments import function as function
from ._arguments import instead_of_objective as instead_of_objective
from ._arguments import is_boolean as is_boolean
from ._arguments import is_numeric as is_numeric
from ._arguments import objective_function as objective_function
from ._arguments import one_of as one_of
from ._arguments import positive as positive
from ._arguments import real as real
from ._arguments import suspended as suspended
from ._arguments import whole as whole
from ._at_levels import at_levels as at_levels
from ._at_levels import level_shapes as level_shapes
from ._describe_sites import table as table
from ._distribution import guarded as guarded
from ._distribution import law as law
from ._distribution import lenient as lenient
from ._distribution import log_density_at_support as log_density_at_support
from ._distribution import log_prob as log_prob
from ._jax import hide_frames as hide_frames
from ._jax import trace_state as trace_state
from ._lifting import lift as lift
from ._partial_run import partial_run as partial_run
from ._pytree import Spec as Spec
from ._pytree import as_array as as_array
from ._pytree import is_inexact as is_inexact
from ._pytree import partition as partition
from ._pytree import stop_gradient as stop_gradient
from .analysis._addends import Addends as Addends
from .analysis._addends import addends as addends
from .analysis._affine import affine as affine
from .analysis._continuity import continuous as continuous
from .analysis._has_surrogate import states_gradient as states_gradient
from .analysis._influences import influences as influences
from .analysis._nonfinite import nonfinite as nonfinite
from .analysis._steps_at_once import steps_at_once as steps_at_once
from .estimate._leave_one_out import lanes_of as lanes_of
from .estimators._reinforce import NoLevelError as NoLevelError
from .exact._outcome_sum import outcome_sum as outcome_sum
from .forks._by_importance import ByImportance as ByImportance
from .program._blocks import blocks as blocks
from .program._blocks import dividing as dividing
from .program._blocks import joined as joined
from .program._blocks import scan_by_blocks as scan_by_blocks
from .program._lane_keys import key_in_lane as key_in_lane
from .program._share import share as share
from .program._site import check_key as check_key
from .program._site import site_scope as site_scope
from .program._site import value_struct as value_struct
