"""A tensor onto a grid: kernels, counters, codes, stochastic rounding, scale recipes.

codes       Between values and codes
constants   The constants of one rounding: which numbers the tensor code needs for a format and a scale
eager       Rounding without a compiler: slices that stay in the cache on the CPU, one slice elsewhere
grid        A grid: what a tensor's values are rounded to, and which values share a scale
kernel      The arithmetic of rounding
mode        ``round_to_grid``: check the arguments, choose the way, round. No autograd here
native      The same rounding in C, one pass over the data, where the machine has a compiler
quantize    Rounding a tensor onto a format
scaling     From largest magnitudes to scales, as tensors; and the magnitudes of the last steps
scratch     Scratch memory that every rounding of a thread reuses, and the constants it reads
statistics  What is counted where a tensor is rounded: one row of numbers per rounding
stochastic  Stochastic rounding and the random bits it consumes
traced      The rounding as a graph sees it, and its counts
"""
