"""A run's folder, its log, its record, and who listens to it.

folder      A run's folder on disk
line_shape  Whether a line of a log is an event whose values may be computed with
log         Reading and repairing ``events.jsonl``, line by line, whatever its length
loggers     Listeners to a run's events, one file each. They receive; they cannot change training
record      What a run's log says, as one record
resumption  Taking up a run again: with its own configuration, or with changes that are said and recorded
run         One run from configuration to a finished folder
series      Columns that grow with a run but stay small
signals     Ctrl-C and the like as questions that a run asks between two steps
study_api   The study's own Python names for one run of one format, on the same engine as everything else
"""
