"""Debian's RabbitMQ, Redis and PgBouncer for tests, on free ports, with data in a test's folder."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import psycopg

from runyard.store.embedded_access import SUPERUSER
from runyard.store.embedded_programs import server_uid
from tests.ports import free_port

# The `rabbitmq-server` on Debian's path accepts only the system's data folder.
_RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class RabbitMQ:
    """A RabbitMQ server that can be killed and restarted.

    Parameters
    ----------
    folder
        The folder for its data.
    options
        More lines for its configuration.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.program = _RABBITMQ if os.path.exists(_RABBITMQ) else shutil.which("rabbitmq-server")
        assert self.program, "this test needs RabbitMQ: apt-get install rabbitmq-server"
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._folder = folder
        mapper = free_port()
        (folder / "rabbitmq.conf").write_text(
            "\n".join([f"listeners.tcp.1 = 127.0.0.1:{self.port}", *options, ""])
        )
        (folder / "plugins").write_text("[].\n")
        self._variables = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"ry{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "db"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1"
                " -rabbit channel_tick_interval 1000"
            ),
        }
        # Started here so that it can be ended here: one that the server starts outlives it.
        self._mapper = subprocess.Popen(
            ["epmd", "-port", str(mapper), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        with (self._folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [str(self.program)],
                env=self._variables,
                cwd=self._folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _until(self._answers, self._server, self._folder / "output")

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._server is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, 9)
            self._server.wait()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._mapper.kill()
        self._mapper.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False


@contextmanager
def rabbitmq(folder: Path, *options: str) -> Iterator[RabbitMQ]:
    """A running RabbitMQ."""
    server = RabbitMQ(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Redis:
    """A Redis server without a file, which can be killed, restarted and made to hang."""

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("redis-server")
        assert self._program, "this test needs Redis: apt-get install redis-server"
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        log = self._folder / "redis.log"
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--save", ""]
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [str(self._program), *options, "--dir", str(self._folder)],
                stdout=output,
                stderr=output,
            )
        _until(lambda: listens("127.0.0.1", self._port), self._server, log)

    def hang(self) -> None:
        """Let it keep its connections, but answer no more."""
        if self._server is not None:
            self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete everything in it."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16).startswith(b"+OK")

    def kill(self) -> None:
        """Kill it, as a crash would, with all that it holds."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()


@contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    """A running Redis."""
    server = Redis(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def pgbouncer(folder: Path, url: str, pool_size: int = 20, more: str = "") -> Iterator[str]:
    """A PgBouncer in transaction mode in front of the tests' PostgreSQL.

    `more` are further lines of its configuration. Gives the URL of the database through it.
    """
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert os.path.exists(program), "this test needs PgBouncer: apt-get install pgbouncer"
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    own = free_port()
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={query['host']} port={query['port']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users'}\n"
        f"pool_mode = transaction\nmax_client_conn = 500\ndefault_pool_size = {pool_size}\n{more}\n"
    )
    (folder / "users").write_text(f'"{parts.username}" ""\n')
    command = [program, "-q", str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        # It refuses to run as root; it runs as the PostgreSQL server's user instead, who needs
        # access to the database.
        user = pwd.getpwuid(server_uid()).pw_name
        command[1:1] = ["-u", user]
        _let_in(user, url)
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _until(lambda: listens("127.0.0.1", own), server, log)
        yield f"postgresql://{parts.username}@127.0.0.1:{own}{parts.path}"
    finally:
        server.kill()
        server.wait()


def _let_in(user: str, url: str) -> None:
    """Allow a system user to connect to the tests' PostgreSQL."""
    with psycopg.connect(
        url.replace(f"//{urlsplit(url).username}@", f"//{SUPERUSER}@"), autocommit=True
    ) as connection:
        file = Path(str(connection.execute("SHOW ident_file").fetchone()[0]))  # type: ignore[index]
        line = f"runyard {user} all\n"
        if line not in file.read_text():
            with file.open("a") as opened:
                opened.write(line)
        connection.execute("SELECT pg_reload_conf()")


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _until(
    what: Callable[[], bool], server: "subprocess.Popen[bytes]", log: Path, seconds: float = 60
) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while not what():
        output = log.read_text() if log.exists() else "no output"
        assert server.poll() is None, output
        assert time.monotonic() < deadline, output
        time.sleep(0.05)
