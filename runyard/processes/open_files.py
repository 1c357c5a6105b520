"""How many files a caller may have open: each of its calls is a socket."""

import resource

# The largest limit that is asked for: some systems have one of a thousand million.
_MOST = 65_536
# A run may have as many calls at a time as its batch has invocations.
_FEW = 4_096


def allow_open_files() -> None:
    """Let this process have as many files open as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def low_limit() -> int | None:
    """Return the limit that no process of this user can raise, if it is low for a caller."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY and hard < _FEW else None
