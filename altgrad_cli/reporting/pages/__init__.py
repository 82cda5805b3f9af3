"""What is said on each page, by subject.

comparison  The comparison of runs, section by section
diagnosis   The diagnosis of a checkpoint
format      `inspect-format`: a format as facts, sheet, tables and picture
measured_claims  Published claims: verdicts, and what each follows from
run         The report of one run
"""
