"""`inspect-format`: a format as facts, sheet, tables and picture.

facts   Everything `inspect-format` says about a format; the JSON document is these
fit     What a format would do to the tensors of a file, matrix by matrix
plot    A format as a picture: its number line, its gaps and its relative error. SVG, drawn by matplotlib
sheet   A format on one screen
tables  Formats as tables: every code, two formats side by side, and what one does to a file's tensors
"""
