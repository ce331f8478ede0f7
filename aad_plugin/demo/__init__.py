"""The embedded demo pair: where its base weights come from and the adapters trained by this project."""
