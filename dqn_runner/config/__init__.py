"""The checked configuration, and the objects built from it."""
