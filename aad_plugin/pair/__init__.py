"""The pair on transformers: two models that decode as one."""
