"""Real training through sources, and what it gains."""
