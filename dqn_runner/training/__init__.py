"""The training loop, its evaluations and its checkpoints."""
