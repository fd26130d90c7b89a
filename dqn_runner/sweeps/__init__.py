"""Many runs from one command: every combination of settings, or a search."""
