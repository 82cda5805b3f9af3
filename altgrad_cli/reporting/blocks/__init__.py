"""A report before it is rendered: sections, tables and figures as plain values.

document  A report before it is rendered: sections of blocks, the same for Markdown, HTML and the terminal
figures   What a picture shows, without how it is drawn
palette   Colours that people with any colour vision can tell apart (Okabe and Ito, 2008)
sources   Where a number comes from
thinning  Long runs made short enough to draw, without hiding what matters
"""
