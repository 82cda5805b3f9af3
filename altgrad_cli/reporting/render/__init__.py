"""One document, many forms: terminal, Markdown, HTML, JSON, pictures.

hover           What the pointer finds in a drawing: which words stand where, for the script of the page
html            A report as one HTML file that opens anywhere and asks nothing of any server
json            A report as plain values: every number with its source, for programs
markdown        A report as Markdown: what is committed, read on a code host, and verified again
pictures        Figures drawn with matplotlib: PNG for Markdown, SVG for the page
terminal        A report in the terminal, through rich
"""
