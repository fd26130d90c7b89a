"""The update, its optimizers, and how it is compiled."""
