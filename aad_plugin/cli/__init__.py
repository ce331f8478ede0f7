"""The ``aad`` command: one file per subcommand over functions that are public API."""
