"""From logs to what people read: tables, pictures and sections, rendered as Markdown, HTML or for a terminal.

blocks    A report before it is rendered: sections, tables and figures as plain values
evidence  What a report stands on: logs as columns, and the answers to what its sources ask
pages     What is said on each page, by subject
render    One document, many forms: terminal, Markdown, HTML, JSON, pictures
report    From folders to a report: a comparison of runs, or the failure report of one
verify    Recompute every number of a committed report from the logs, and say what differs
"""
