"""What an agent is: how it acts, and what it learns."""
