"""Q-networks: torsos, heads, and the flat form that is learned."""
