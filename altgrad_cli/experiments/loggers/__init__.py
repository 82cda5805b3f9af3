"""Listeners to a run's events, one file each. They receive; they cannot change training."""
