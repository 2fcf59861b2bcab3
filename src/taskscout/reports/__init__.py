"""Reports: they show results and compute nothing."""
