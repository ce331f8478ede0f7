"""Report page, plots and gate."""
