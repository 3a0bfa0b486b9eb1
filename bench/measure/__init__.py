"""Clocks, machines, records and the console: what every measurement needs."""
