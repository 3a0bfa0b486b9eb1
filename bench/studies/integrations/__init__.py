"""What our solvers are worth in other people's packages: their default, their fastest own mode, ours."""
