"""Who carries out the runs of a sweep.

local   Carries out arms in parallel. An interface, and the one implementation there is
worker  The inside of a worker process: takes one run at a time from its connection and reports on it
"""
