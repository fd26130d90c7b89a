"""SwanLab's local dashboard, made from run directories."""
