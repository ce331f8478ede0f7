"""Tasks whose documents are pictures."""
