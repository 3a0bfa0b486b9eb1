"""The systems people solve: Poisson operators on grids, exact solves on boxes, seeded scenes, simulators."""

from .grid import Cell
from .liquid import DamBreak, liquid_sequence
from .poisson import Poisson
from .scenes import FAMILIES, Family, scene
from .smoke import SmokePlume, smoke_sequence
from .sources import right_hand_side
from .stacking import stack
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
