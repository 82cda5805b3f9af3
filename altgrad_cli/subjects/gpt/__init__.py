"""The built-in network under study: a small GPT.

model         A GPT after nanoGPT: pre-LayerNorm, no biases, tied embedding and head
layer_names   What its linear layers are
text_subject  The GPT with its loss and batches of text, as a Subject
"""
