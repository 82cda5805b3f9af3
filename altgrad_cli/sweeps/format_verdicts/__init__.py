"""A format over all its seeds and texts.

families  Runs of one format: its seeds and its texts
ranking   Formats in order, with the chance that two are the other way round
words     What a format comes to: the words that the evidence allows
"""
