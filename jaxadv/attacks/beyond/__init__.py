"""Attacks that leave the norms' balls: the picture is moved, and stays what it was to the eye."""

from jaxadv.attacks.beyond.spatial import Spatial

__all__ = ["Spatial"]
