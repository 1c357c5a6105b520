"""What runs by the clock: maintenance, analytics, sources of data."""
