"""Protocols that run several attacks: evaluation, distances, query curves, survival, streams."""
