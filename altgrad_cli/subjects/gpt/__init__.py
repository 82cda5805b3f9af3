"""The built-in network under study: a small GPT.

model  A GPT after nanoGPT: pre-LayerNorm, no biases, tied embedding and head
"""
