"""Who carries out the runs of a sweep.

choice        Which executor a command line names
local         Carries out arms in parallel: worker processes on this machine
messages      What a sweep and its workers say to each other
protocol      What carries out the runs of a sweep, as the sweep sees it
ray_agent     What stands in for a sweep on a node of a Ray cluster
ray_cluster   Joining a Ray cluster, or starting Ray on this machine
ray_executor  Carries out arms on a Ray cluster
worker        The inside of a worker process: takes one run at a time from its connection and reports on it
"""
