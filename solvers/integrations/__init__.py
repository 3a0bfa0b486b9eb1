"""Other people's packages with our solvers: one module per package, which is imported when something is used."""
