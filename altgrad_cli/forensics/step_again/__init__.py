"""The recorded step once more: as it was, and under one change at a time.

replay_state  the state before the recorded step, rebuilt, with the batch that it was given
variations    the step under a variation, and what came out; each variation is tried once
what_if       what would have saved the step: formats, roundings, scalings, single roles, the usual remedies
bisection     the smallest set of layers that must leave the 8-bit grid
foreign_step  One batch through a model with another program's weights
replay        the step in a new process, tensor by tensor against the recorded trace
"""
