"""Which checkpoints make a pair, and with which options. Runs no model."""
