"""Who carries out the runs of a sweep.

local     Carries out arms in parallel. An interface, and the one implementation there is
messages  What goes through the pipe between a sweep and its workers
worker    The inside of a worker process: takes one run at a time from its connection and reports on it
"""
