"""What the commands show of a plan and of a sweep.

plan_view     What --dry-run prints
sweep_tables  The tables that `sweep` ends in, and what their readers have to know
sweep_view    What `sweep` shows while its arms run
"""
