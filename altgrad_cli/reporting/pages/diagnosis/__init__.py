"""The diagnosis of a checkpoint.

details  The detail of a diagnosis behind its first screen
page     A diagnosis as a report: its first screen, then one section a question
"""
