"""What an optimizer proposes before anything is overwritten.

rule      What every update rule offers: propose and commit
registry  Update rules by the names of ``optimizer.rule``
adamw     AdamW that computes a candidate beside the state instead of overwriting it
schedule  The learning rate at a step
flat      All parameters in one buffer
"""
