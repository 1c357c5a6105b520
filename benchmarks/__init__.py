"""Measures Runyard, and stock Dagster beside it, in one call: `make bench`."""
