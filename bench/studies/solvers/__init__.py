"""Studies of the solver: rules against the network, ablations, sequences, warm starts, published methods."""
