"""The state of a run whose model, optimizer and loop are somebody else's.

building    A training state round a model and an optimizer that are in use
parameters  Their parameters beside a flat copy of them
optimizer   Their optimizer as an update rule; and made again from what a capture says of it
calls       The model's calls of one step, recorded, so that the step can be taken again without its loop
"""
