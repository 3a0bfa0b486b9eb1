"""Recognise."""
def from_matrix(*args): raise NotImplementedError
