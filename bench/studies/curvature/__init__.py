"""Curvature estimates against other libraries, at equal error."""
