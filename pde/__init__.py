"""The systems people solve: Poisson operators on grids, exact solves on boxes, seeded scenes, simulators."""

from .grid import Cell
from .poisson import Poisson
from .scenes import FAMILIES, Family, scene
from .sources import right_hand_side
from .transforms import is_box, solve_box

__all__ = ["FAMILIES", "Cell", "Family", "Poisson", "is_box", "right_hand_side", "scene", "solve_box"]
