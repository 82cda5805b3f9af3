"""The embedded corpus: the law of an imaginary Union, drafted by a seeded legislator.

grammar     The law of an imaginary Union that regulates small matters thoroughly: grammar and vocabulary
legislator  Draws acts from the grammar in ``legal_english``
"""
