"""One run on several processes, which torchrun starts.

launch  Joining the processes of a run, and one voice for what stops them
ranks   Which rows of a batch are whose, and how what the ranks hold becomes one
shares  Whether the batches of a run can be shared by its ranks: asked of one, before the first step
"""
