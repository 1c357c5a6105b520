"""What others post to us, where it is too large for an event."""
