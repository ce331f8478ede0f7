"""One self-contained HTML file, and plots for a paper: what explanations and reports share."""
