"""The lm-eval side: the ``aad`` model, registration, and the tasks' shared classes."""
