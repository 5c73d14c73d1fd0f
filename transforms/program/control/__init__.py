"""Control flow, one construct a file: all that the package knows of `scan` is in `_scan`, of `cond` in `_cond`, ...

A construct is one class (`_base.Control`) that says how it runs under a mode, how many alternatives the forks inside it
name, how knowledge of values flows through it, whether scores inside are kept apart by steps, and where to look for a
number that is not finite. Interpreters, analyses and reports ask `control_of(eqn)` and know no construct by name. A new
one is a file, its name below, its test.

May import: `_jax`, `_errors`, `_pytree`. Open `_base.py` first, then `_cond.py`.
"""

from . import _cond as _cond
from . import _custom as _custom
from . import _scan as _scan
from . import _while as _while
from ._base import Body as Body
from ._base import Control as Control
from ._base import Turn as Turn
from ._base import control_of as control_of
from ._base import loop_in as loop_in
from ._base import no_rule as no_rule
from ._call import Call as Call
from ._call import called as called
from ._call import is_call as is_call
from ._checkpoint import Checkpoint as Checkpoint
from ._loop import Loop as Loop
from ._scan import is_loop as is_loop
from ._scan import loop_of as loop_of
