"""``python -m aad_plugin.cli`` is ``aad``."""

from aad_plugin.cli.main import run

run()
