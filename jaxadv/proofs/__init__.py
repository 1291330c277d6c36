"""Proofs: sound bounds of a network over a ball, from its trace alone."""
