"""Levels of pieces across ranks: the partition and the first graph of one process, from boxes that overlap."""
