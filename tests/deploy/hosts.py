"""Hosts of a network on this machine: Linux namespaces with a name, an address and a bridge.

A program of a host sees its own network, host name and process ids, as in a container, and finds
the other hosts by their names. Killing it kills all that it has started.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_NAMED = 'hostname "$0" && exec "$@"'


def can_be_had() -> bool:
    """Whether this machine lets us make namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    made = subprocess.run(["ip", "netns", "add", f"ry{os.getpid()}probe"], capture_output=True)
    if made.returncode == 0:
        _ip("netns", "delete", f"ry{os.getpid()}probe")
    return made.returncode == 0


class Network:
    """A network of hosts; a context manager that removes all of it.

    Parameters
    ----------
    names
        The names of its hosts.
    logs
        The folder for what their programs print.
    """

    def __init__(self, names: Sequence[str], logs: Path) -> None:
        self._logs = logs
        self._id = f"ry{os.getpid()}"
        self._bridge = f"{self._id}b"
        subnet = f"10.213.{os.getpid() % 250}"
        self.subnet = f"{subnet}.0/24"
        self._gateway = f"{subnet}.1/24"
        self.addresses = {name: f"{subnet}.{number}" for number, name in enumerate(names, 2)}
        self._programs: dict[str, list[subprocess.Popen[bytes]]] = {name: [] for name in names}

    def __enter__(self) -> "Network":
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", self._gateway, "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self.addresses):
            self._add(name, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self.addresses):
            self.kill(name)
            # That of a deleted namespace would be there for a while yet, and so would its name.
            _ip("link", "delete", self._outside(number))
            _ip("netns", "delete", self._namespace(name))
            shutil.rmtree(Path("/etc/netns") / self._namespace(name))
        _ip("link", "delete", self._bridge)

    def start(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a program on a host; its output is in the host's log."""
        with self.log(name).open("ab") as output:
            program = subprocess.Popen(
                [*self._on(name), *command],
                env=dict(variables),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._programs[name].append(program)
        return program

    def run(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on a host until it ends."""
        return subprocess.run(
            [*self._on(name), *command],
            env=dict(variables),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def kill(self, name: str) -> None:
        """Kill all programs of a host at once, as if it had lost its power."""
        for program in self._programs[name]:
            program.kill()
            program.wait()
        self._programs[name].clear()

    def log(self, name: str) -> Path:
        """The file with the output of a host's programs."""
        return self._logs / f"{name}.log"

    def _namespace(self, name: str) -> str:
        return f"{self._id}-{name}"

    def _outside(self, number: int) -> str:
        """This end of a host's link."""
        return f"{self._id}v{number}"

    def _on(self, name: str) -> list[str]:
        """The words before a command that make it run on a host."""
        alone = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        inside = ["ip", "netns", "exec", self._namespace(name)]
        return [*inside, *alone, "sh", "-c", _NAMED, name]

    def _add(self, name: str, number: int) -> None:
        namespace, outside = self._namespace(name), self._outside(number)
        _ip("netns", "add", namespace)
        files = Path("/etc/netns") / namespace
        files.mkdir(parents=True)
        lines = [f"{address} {host}" for host, address in self.addresses.items()]
        (files / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", outside, "master", self._bridge)
        _ip("link", "set", outside, "up")
        _ip("-n", namespace, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
