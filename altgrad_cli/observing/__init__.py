"""A loop that somebody else has written, watched: two lines round it, and it stays as it is.

lab       ``observe``: what a loop is given, and what it can ask for
passes    The forward and backward passes of one step, seen by hooks
settings  The configuration of an observed run, from what ``observe`` was given
wrappers  What stands round a model: compiled, DDP-wrapped, sharded
"""
