"""Many runs side by side: what was asked, the plan, the results.

ablation         Which stage, which role and which layers do the damage: runs that switch one thing off
arms             An arm of a sweep: one run, why it is there, and which controls it is held against
comparison       Formats compared over several seeds
engine           Carries a sweep out
estimate         What a sweep will cost and what its formats will stall at
executors        Who carries out the runs of a sweep
format_verdicts  A format over all its seeds and texts: words, order
listing          What lies in a folder: its runs and sweeps, newest first
plan             The arms of a sweep, as a pure function of what was asked and of the results so far
results          What lies in a sweep's folder
retries          What a format's result calls for
specification    What a sweep was asked to do
tuning           Learning rates: which to try next and which was best, from the losses so far
verdicts         Holds a run's record against its controls: recovered fraction, grade, cause, collapse
"""
