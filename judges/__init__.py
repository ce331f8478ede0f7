"""Judges: compare answers and turn verdicts into statistics. Knows nothing of lm-eval or of how answers were decoded."""
