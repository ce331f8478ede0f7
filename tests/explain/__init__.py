"""Explanations and traces."""
