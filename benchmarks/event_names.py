"""The names of the events of `benchmarks.many`, without loading the code location."""


def event_name(number: int) -> str:
    """The event that starts a function."""
    return f"bench/f{number:04}"
