"""What a report stands on: logs as columns, and the answers to what its sources ask.

groups      Runs that are one arm: names under which a table's row or a source asks for all of them together
labels      What a reader calls a run: its format and what tells it from the others
quantities  Everything that a source can name of one run: its metrics reduced, facts, keys of its mappings
runs        The runs of a report, which of them are each other's controls, and the one way to a number
scope       What a report is about: the runs named on the command line, their sweep and their controls
windows     The stretch of steps over which a report states a run's rates
"""
