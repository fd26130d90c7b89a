"""Runs: their directories, and what happens to one from its start to its result."""
