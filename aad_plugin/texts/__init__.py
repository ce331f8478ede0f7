"""Prompts and answers as data: read from files, put into messages, rendered by a chat template."""
