"""The tables of numbers that the analytics assets keep."""
