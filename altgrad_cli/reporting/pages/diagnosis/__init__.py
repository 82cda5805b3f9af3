"""The diagnosis of a checkpoint.

details  The detail of a diagnosis behind its first screen
page     A diagnosis as a report: its first screen, then one section a question
screen   The first screen of a diagnosis: what failed, where, why, whether it reproduces, what next
"""
