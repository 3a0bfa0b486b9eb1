"""krylearn."""
