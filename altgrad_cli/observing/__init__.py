"""A loop that somebody else has written, watched: two lines round it, and it stays as it is.

start      ``observe``: what a loop is given before its first step
lab        What ``observe`` returns: it decides at every step, and gives the model back
passes     The forward and backward passes of one step, seen by hooks
settings   The configuration of an observed run, from what ``observe`` was given
wrappers   What stands round a model or an optimizer: compiled, DDP-wrapped, sharded, handed on by a trainer
hf         The same for the Trainer of Transformers
lightning  The same for the Trainer of Lightning
"""
