"""Precision put into a model: the quantised linear layer.

linear  The quantised linear layer, the only place where training tensors are rounded during a step
"""
