"""Preference pairs that a pair makes out of prompts alone: chosen = AAD, rejected = what the policy says by itself."""
