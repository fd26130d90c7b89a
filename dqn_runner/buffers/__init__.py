"""Replay: storing transitions, sampling them, and assembling them from steps."""
