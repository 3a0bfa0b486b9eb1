"""The systems people solve: Poisson operators on grids, exact solves on boxes, seeded scenes, simulators."""

from .poisson.grid import Cell
from .poisson.operator import Poisson
from .poisson.stacking import stack
from .scenes.families import FAMILIES, Family, scene
from .scenes.right_hand_sides import right_hand_side
from .simulations.liquid import DamBreak, liquid_sequence
from .simulations.smoke import SmokePlume, smoke_sequence
from .transforms import is_box, solve_box

__all__ = [
    "FAMILIES",
    "Cell",
    "DamBreak",
    "Family",
    "Poisson",
    "SmokePlume",
    "is_box",
    "liquid_sequence",
    "right_hand_side",
    "scene",
    "smoke_sequence",
    "solve_box",
    "stack",
]
