"""Models: the encoder, heads, tuning, and the workbench that hands out what is costly."""
