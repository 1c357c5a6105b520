"""What happens on an event: one module a family, its jobs and ops; `definitions.py` puts everything together."""
