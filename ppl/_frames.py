"""Source lines in messages are the user's: frames of this package and of Equinox's wrappers are left out."""

import os

import equinox as eqx

from .transforms._internal import hide_frames

for _file in (__file__, eqx.__file__):
    hide_frames(os.path.dirname(_file))
