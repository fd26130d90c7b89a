"""From the command line, through Hydra, to plain configurations."""
