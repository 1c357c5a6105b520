"""Incoming webhooks whose payload is too large for an event."""
