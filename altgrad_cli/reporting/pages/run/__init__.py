"""The report of one run.

coverage_section  Which share of the multiply-adds is rounded, and what is not
failure_sections  The failure report of one run
failure_tables    The measured part of a failure report
run_opening       How the report of one run opens
recommendations   What follows from a measured cause
run_sections      What every report of a run ends with
"""
