"""SwanLab: logging a run to it, and sending runs to its cloud."""
