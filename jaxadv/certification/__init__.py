"""Randomised smoothing, exact distances of small models, Lipschitz bounds, and rare events."""
