"""A layer's weights by themselves, as taken every ``diagnostic_interval`` steps.

grid  Against the grid they live on: stiffness, alignment, ULP movement
rank  Their singular values: three ranks, the spectral norm, and whether the rank falls
"""
