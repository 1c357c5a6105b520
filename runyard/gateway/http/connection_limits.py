"""Limits on client connections: how many there may be in all and from one address.

A connection without a request in progress keeps its place only as long as nobody else needs it. So
silent connections and those kept alive for another request lock nobody out: a new connection is
refused only if there are requests in progress on all the others.
"""

import ipaddress
import resource
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from runyard.settings import Settings

# File descriptors for everything else: the database, the log, the processes of the Dagster UI.
_OTHER_DESCRIPTORS = 256


class Connection(Protocol):
    """What the limiter needs to know of a connection."""

    address: str

    @property
    def writing(self) -> bool:
        """Whether the client has yet to read a part of its last response."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


# Idle connections; the first one has been idle for the longest time.
Idle = OrderedDict[Connection, None]


@dataclass
class _Address:
    count: int = 0
    idle: Idle = field(default_factory=OrderedDict)


class ConnectionLimiter:
    """Admits connections, closing idle ones to make room.

    Parameters
    ----------
    limit, limit_per_address
        How many connections there may be, and how many from one address.
    """

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._all: set[Connection] = set()
        self._idle: Idle = OrderedDict()
        self._addresses: dict[str, _Address] = {}

    def admit(self, connection: Connection) -> bool:
        """Add a new, idle connection; return whether there was room, or an idle one to close."""
        address = self._addresses.get(connection.address) or _Address()
        if address.count >= self._limit_per_address and not self._make_room(address.idle):
            return False
        if len(self._all) >= self._limit and not (
            self._make_room(address.idle) or self._make_room(self._idle)
        ):
            return False
        self._all.add(connection)
        self._addresses[connection.address] = address
        address.count += 1
        self.mark_idle(connection)
        return True

    def mark_active(self, connection: Connection) -> None:
        """Note that a request is in progress on it."""
        if connection in self._all:
            self._idle.pop(connection, None)
            self._addresses[connection.address].idle.pop(connection, None)

    def mark_idle(self, connection: Connection) -> None:
        """Note that no request is in progress on it."""
        if connection in self._all:
            self._idle[connection] = None
            self._addresses[connection.address].idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """Free its place."""
        if connection not in self._all:
            return
        self.mark_active(connection)
        self._all.discard(connection)
        address = self._addresses[connection.address]
        address.count -= 1
        if not address.count:
            del self._addresses[connection.address]

    def _make_room(self, idle: Idle) -> bool:
        """Close the connection that has been idle longest; return whether there was one.

        One whose response is still being written does not count as idle.
        """
        oldest = next((connection for connection in idle if not connection.writing), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.close()
        return True


def max_connections(settings: Settings) -> int:
    """How many connections this process may have.

    That is the number in the settings, or fewer if the process may not open as many files. Its soft
    limit on open files is raised as far as the hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.connections + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return settings.connections
    return min(settings.connections, max(soft - _OTHER_DESCRIPTORS, soft // 2))


@lru_cache(maxsize=4096)
def client_address(host: str) -> str:
    """What counts as one client's address: an IPv4 address, or the /64 network of an IPv6 address.

    One IPv6 client has a whole such network to itself.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
