"""What a report stands on: logs as columns, and the answers to what its sources ask.

columns     A run's log with its layers step by step
factorial   Which runs switch a failing run's roles on and off
facts       Facts about a run, by the names that sources use: what stands in its log beside the metrics
places      Which role of which layers does the damage in a run with rules, by the logs of a report
quantities  Everything that a source can name of one run
reductions  Reductions of a run's metrics over steps and layers, by the names that sources use
rules       The constants of the definitions that a report quotes, by the name its sources use
runs        The runs of a report, which of them are each other's controls, and the one way to a number
scope       What a report is about: the runs named on the command line, their sweep and their controls
texts       Longer texts that a report quotes and that are compared again when it is verified
windows     The stretch of steps over which a report states a run's rates
"""
