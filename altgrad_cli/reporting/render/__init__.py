"""One document, many forms: terminal, Markdown, HTML, JSON, pictures.

diagnosis_text      Sections of a diagnosis as terminal output and as Markdown
html                A report as one HTML file that opens anywhere and asks nothing of any server
json                A report as plain values: every number with its source, for programs
markdown            A report as Markdown: what is committed, read on a code host, and verified again
matplotlib_figures  Figures as PNG for Markdown, drawn with matplotlib and without pyplot's global state
plotly_figures      Figures as plotly descriptions (plain dicts), for the page that is read in a browser
plotly_parts        What all plotly descriptions have in common: axes, layout, numbers, thin lines
terminal            A report in the terminal, through rich
"""
