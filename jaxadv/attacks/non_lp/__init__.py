"""Attacks outside the Lp balls: spatial changes, changes of colour and transport of brightness."""
