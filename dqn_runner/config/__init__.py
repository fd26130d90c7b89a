"""The configuration: checked values, error lines, and the objects built from it."""
