"""Protocols that run several attacks: evaluation, minimal distances, query curves."""
