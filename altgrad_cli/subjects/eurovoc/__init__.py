"""A second task for the GPT's body: the EuroVoc labels of a document, several of them at once.

classifier        The network: the GPT's body, the mean over the tokens, a linear head; and its loss
label_scores      What an evaluation of it says beside the loss: micro and macro F1
label_subject     The classifier with its loss and batches of documents, as a Subject
labelled_corpus   Documents and labels as arrays: the labels that are learnt, the tokens that are read
"""
