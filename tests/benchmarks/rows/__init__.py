"""The rows of the table, by name."""

from . import chains, discrete, networks, plates, tasks

ROWS = chains.ROWS | plates.ROWS | discrete.ROWS | networks.ROWS | tasks.ROWS
