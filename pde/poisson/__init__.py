"""The Poisson operator: its data, its products, how it is built, and what it does to vectors."""

from .operator import Poisson

__all__ = ["Poisson"]
