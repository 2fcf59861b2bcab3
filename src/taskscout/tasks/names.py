"""Names that no task may have."""

#: What stands for "use no source" among sources: in rankings, grids and descriptions.
NONE = "none"
