"""What happens on an event: the jobs and ops of each family, one module for each.

`definitions.py` puts them together; `events` has the event types.
"""
