"""Hyper-parameters for another batch size: published rules, the choice between them, and how they are written."""
