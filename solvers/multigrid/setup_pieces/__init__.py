"""Set-up of pieces on the CPU: whether they pay, which unknowns belong together, and the levels that follow."""
