"""What is trained: a model, a loss and its batches.

subject        What training, forensics and reports know of a model: the seam
built_in       The subjects that altgrad has itself
corpus         From a corpus to seeded batches, one file per stage
eurovoc        The second task: the labels of a document, by the same network under another head
gpt            The built-in network under study: a small GPT
legal_english  The embedded corpus: the law of an imaginary Union, drafted by a seeded legislator
trial          A stranger's subject tried out on one batch, before the first step
weights_of_others  A subject with weights that somebody else trained
yours          A user's own subject, from the function that the command line names
"""
