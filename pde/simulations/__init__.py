"""Smoke and liquid on staggered grids: where sequences of pressure systems come from."""
