"""Parsers of what people write: durations, times, paths and filters, and retention policies."""
