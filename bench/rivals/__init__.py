"""The rivals: what people install today, each configured as its manual advises."""
