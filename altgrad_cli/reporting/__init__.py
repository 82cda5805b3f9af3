"""From logs to what people read: tables, pictures and sections, rendered as Markdown, HTML or for a terminal.

``columns`` reads a log, ``evidence`` answers what a ``source`` asks, ``sections`` (a comparison) and
``failure_sections`` (one run) say it, ``verify`` asks again.
"""
