"""How the demo pair's policy adapter and reward model were made; ``python -m experiments.demo_pair --help``."""
