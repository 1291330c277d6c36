"""Attacks that run another attack on a changed problem."""
