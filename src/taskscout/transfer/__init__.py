"""Transfer: train through sources, compare with and without, hand over the model."""
