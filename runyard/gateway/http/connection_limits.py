"""The connections of this process: how many there may be in all and from one address, and which one makes room for another.

A connection without a request in progress holds a place only as long as nobody else needs it. So silent connections, and those that are kept open
for another request, keep nobody out; a new one is refused only while requests are in progress on all the others.
"""

import ipaddress
import resource
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from runyard.settings import Settings

# Descriptors for everything that is no client: the database, the log, the processes of the Dagster UI.
_OTHER_DESCRIPTORS = 256


class Connection(Protocol):
    """What is known of a connection here."""

    address: str

    @property
    def writing(self) -> bool:
        """Whether a part of its last answer was not read by the client yet."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


# Idle connections, the one that has been so for the longest time first.
Idle = OrderedDict[Connection, None]


@dataclass
class _Address:
    count: int = 0
    idle: Idle = field(default_factory=OrderedDict)


class ConnectionLimiter:
    """Who is connected.

    Parameters
    ----------
    most, most_an_address
        How many connections there may be, and how many from one address.
    """

    def __init__(self, most: int, most_an_address: int) -> None:
        self._most = most
        self._most_an_address = most_an_address
        self._all: set[Connection] = set()
        self._idle: Idle = OrderedDict()
        self._addresses: dict[str, _Address] = {}

    def admit(self, connection: Connection) -> bool:
        """Take a new connection, which is idle at first; return whether there was room, or an idle one to close for it."""
        address = self._addresses.get(connection.address) or _Address()
        if address.count >= self._most_an_address and not self._make_room(address.idle):
            return False
        if len(self._all) >= self._most and not (
            self._make_room(address.idle) or self._make_room(self._idle)
        ):
            return False
        self._all.add(connection)
        self._addresses[connection.address] = address
        address.count += 1
        self.mark_idle(connection)
        return True

    def mark_active(self, connection: Connection) -> None:
        """A request is in progress on it now."""
        if connection in self._all:
            self._idle.pop(connection, None)
            self._addresses[connection.address].idle.pop(connection, None)

    def mark_idle(self, connection: Connection) -> None:
        """No request is in progress on it now."""
        if connection in self._all:
            self._idle[connection] = None
            self._addresses[connection.address].idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """It is gone."""
        if connection not in self._all:
            return
        self.mark_active(connection)
        self._all.discard(connection)
        address = self._addresses[connection.address]
        address.count -= 1
        if not address.count:
            del self._addresses[connection.address]

    def _make_room(self, idle: Idle) -> bool:
        """Close the one of these that has been idle longest, but for one whose answer is still on its way; return whether there was one."""
        oldest = next((connection for connection in idle if not connection.writing), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.close()
        return True


def max_connections(chosen: Settings) -> int:
    """How many connections this process may have: as many as are set, but no more than its open files allow, whose limit is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = chosen.connections + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        chosen.connections
        if soft == resource.RLIM_INFINITY
        else min(chosen.connections, max(soft - _OTHER_DESCRIPTORS, soft // 2))
    )


@lru_cache(maxsize=4096)
def client_address(host: str) -> str:
    """What counts as one address: an IPv4 address, or the network of an IPv6 address (64 bits), which one client has as a whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
