"""The command `runyard`."""
