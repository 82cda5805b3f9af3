"""What of a run goes to disk as checkpoints, and back.

archive   Save, capture, resume: which checkpoint is written when
snapshot  The state of a run between two steps as plain values and tensors, and back
"""
