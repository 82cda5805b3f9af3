"""Side-by-side measurements against the neighbouring tools: ``make bench``."""
