"""The network under study: a small GPT."""
