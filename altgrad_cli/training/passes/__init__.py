"""One forward and backward pass.

eager      A pass through torch's own autograd; the float32 shadow and the validation loss
buffers    What a model remembers beside its parameters: a pass hands it over, a commit takes it
compiled   The same pass as one compiled graph
recording  An eager pass written down and compiled
"""
