"""Seeded test problems: geometries, media and right-hand sides, and the manifest of families that names them."""

from .families import FAMILIES, Family, scene
from .right_hand_sides import right_hand_side

__all__ = ["FAMILIES", "Family", "right_hand_side", "scene"]
