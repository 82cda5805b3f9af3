"""What an optimizer proposes before anything is overwritten.

adamw  AdamW that computes a candidate beside the state instead of overwriting it
flat   All parameters in one buffer
"""
