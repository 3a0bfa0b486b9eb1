"""The best learning rate at every batch size, measured, against what each rule says."""
