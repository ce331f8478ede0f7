"""Placeholder until tables stand."""


def write_study(folder):
    return []
