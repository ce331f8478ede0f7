"""Task configurations for lm-eval; found through ``aad_plugin.harness``, never imported by name from outside."""
