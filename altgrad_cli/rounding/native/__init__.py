"""The same rounding in C, one pass over the data, where the machine has a compiler; else torch's operations.

build  A library from a C file: compiled once with the machine's compiler, kept in the user's cache
call   Rounding with one scale or with several: natively where possible, else eagerly, with the same bits
"""
