"""Precision put into a model: its layers replaced by ones that round.

convolution     The quantised convolution
coverage        Which share of a model's multiply-adds is rounded, and by name what is not
embedding       The quantised look-up of an embedding, where it is asked for
hadamard        Outliers spread over their neighbours before the operands of dW are rounded
in_place        A model's own layers made to round, where they stand, and put back
linear          The quantised linear layer, and the rounding of a pass: W, A and G of every layer
share           The part of a batch that one of several ranks takes
precision_plan  Which tensor of which layer is rounded onto which grid: configuration in, one frozen plan out
swapping        Rounding layers put into any model in place of its own
"""
