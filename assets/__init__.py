"""Dagster assets: analytics of the events and families, a report on the system, synced tables."""
