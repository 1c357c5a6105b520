"""What happens on an event: the steps of each family, one module for each.

`sensors` puts them together to functions; `events` has the event types.
"""
