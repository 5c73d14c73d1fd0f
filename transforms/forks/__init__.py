"""What forking sites add to an estimate: the program run again with alternatives in place.

`_sum` is what is added, `_groups` says which steps are run again together, `_replay` is one further run, `_numbering`
the order of the alternatives, `lanes/` the versions of a program that differ in one lane, `_stratified` the choice of a
few alternatives at random, `_one_by_one` the plain way for tests to compare with.

May import: `program`, `analysis`. Open `_sum.py` first, `lanes/` last.
"""
