"""The command line: parse, call one function of a lower room, render, exit.

One file per command; ``app`` is the table of contents. Nothing here imports torch when it is loaded.
"""
