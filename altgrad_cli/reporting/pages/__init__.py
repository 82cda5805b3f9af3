"""What is said on each page, by subject.

comparison  The comparison of runs, section by section
diagnosis   The diagnosis of a checkpoint
format      `inspect-format`: a format as facts, sheet, tables and picture
run         The report of one run
"""
