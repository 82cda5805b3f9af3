"""The command line: parse, call one function of a lower room, render, exit. Loading it loads no torch.

app                  The table of contents of the command line
arguments            What `train` and `sweep` share: [CONFIG] [key=value ...], and completion in the shell
console              Data to stdout, talk to stderr, JSON
diagnose_checkpoint  What failed, where first, why, and what would have saved it
failures             The one place where a failure becomes a message and an exit code
inspect_format       What a number format can represent
listings             `ls` and `configs`: what lies in a folder, and what ships
published_claims     What the field claims, measured here
report               What the logs of runs and sweeps say
sweep                Every format and its controls, side by side
train                One run, watched, logged, resumable
views                What they show of a plan and of a sweep
"""
