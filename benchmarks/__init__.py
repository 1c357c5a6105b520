"""Measures Runyard, and stock Dagster for comparison, in one call: `make bench`."""
