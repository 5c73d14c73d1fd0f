"""What forking sites add to an estimate: the program run again with alternatives in place.

`_sum` is what is added, `_replay` one further run, `_numbering` the order of the alternatives, `_lanes` the versions of
a program that differ in one lane, `_stratified` the choice of a few alternatives at random.

May import: `program`, `analysis`. Open `_sum.py` first, `_lanes.py` last.
"""
