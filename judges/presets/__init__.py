"""Judges by name, with their price, limits and measured quality: one YAML file each."""
