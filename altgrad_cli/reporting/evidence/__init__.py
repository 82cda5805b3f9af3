"""What a report stands on: logs as columns, and the answers to what its sources ask.

facts       Facts about a run, by the names that sources use: what stands in its log beside the metrics
reductions  Reductions of a run's metrics over steps and layers, by the names that sources use
runs        The runs of a report, which of them are each other's controls, and the one way to a number
scope       What a report is about: the runs named on the command line, their sweep and their controls
windows     The stretch of steps over which a report states a run's rates
"""
