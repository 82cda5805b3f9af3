"""Listeners to a run's events, one file each. They receive; they cannot change training.

jsonl          The log that everything readable is derived from
listener       The interface of everything that listens to a run
live           A run as it goes: a live panel on a terminal, plain lines elsewhere
wandb          Sends a run to Weights & Biases without ever waiting for it
wandb_process  The process in which wandb lives
wandb_rows     What a step looks like in Weights & Biases: one row of grouped keys. Pure; no wandb here
warnings       Warnings of the lower rooms, which know no console, as lines for the user
"""
