"""A tensor onto a grid: kernels, counters, codes, stochastic rounding, scale recipes.

codes          Between values and codes
compiled       The same rounding, fused by torch.compile into one pass
constants      The constants of one rounding: which numbers the tensor code needs for a format and a scale
eager          Rounding without a compiler: slices that stay in the cache on the CPU, one slice elsewhere
kernel         The arithmetic of rounding
mode           ``round_to_grid``: check the arguments, choose the way, round. No autograd here
quantize       Rounding a tensor onto a format
scaling        From the largest magnitude of a tensor to the scale s it is divided by
scratch        Scratch memory that every rounding of a thread reuses, and the constants it reads
statistics     What is counted where a tensor is rounded: one row of numbers per rounding
stochastic     Stochastic rounding and the random bits it consumes
traced         The rounding as a graph sees it
traced_counts  The rows of statistics as a graph computes them
"""
