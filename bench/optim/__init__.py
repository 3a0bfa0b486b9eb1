"""What a user of the optimizers measures: spectra of their own checkpoints."""
