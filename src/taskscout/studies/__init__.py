"""Methods held against real transfer: grids, metrics, comparisons."""
