"""The systems people solve: Poisson operators on grids, exact solves on boxes, seeded scenes, simulators."""

from .grid import Cell
from .poisson import Poisson

__all__ = ["Cell", "Poisson"]
