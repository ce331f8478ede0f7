"""How the demo pair's policy adapter and reward model were made; ``python -m aad_plugin.demo.recipe --help``."""
