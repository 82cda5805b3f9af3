"""Precision put into a model: the quantised linear layer.

hadamard        Outliers spread over their neighbours before the operands of dW are rounded
linear          The quantised linear layer, the only place where training tensors are rounded during a step
precision_plan  Which tensor of which layer is rounded onto which grid: configuration in, one frozen plan out
"""
