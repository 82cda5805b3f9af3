"""One forward and backward pass.

eager      A pass through torch's own autograd; the float32 shadow and the validation loss
compiled   The same pass as one compiled graph
recording  An eager pass written down and compiled
"""
