"""The processes that the compose file declares, on hosts of their own, with servers from Debian.

The commands, their variables, the conditions on which they wait and their health checks are those
of the file; the image's folder is made as the Dockerfile makes it.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import ROOT, wait_until
from tests.deploy import hosts, manifests
from tests.servers import listens

pytestmark = pytest.mark.slow
# A host on which no service of the compose file runs until a test starts one.
_SPARE = "spare"
_PASSWORD = "a-password"
_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_LEASE_SECONDS = "6"


class Deployment:
    """The services of the compose file; a context manager that starts them all in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services: dict[str, dict[str, Any]] = manifests.compose()["services"]
        self._is_up: set[str] = set()
        names = [
            host
            for service in self._services
            if not self._shares_a_host(service)
            for host in self.hosts_of(service)
        ]
        self.network = hosts.Network([*names, _SPARE], folder)
        self.files = folder / "files"
        # Not in the test's folder, through which only its own user passes.
        self._postgres = Path(tempfile.mkdtemp(prefix="ryp-", dir="/tmp"))
        self.key = ""

    def __enter__(self) -> "Deployment":
        self._make_image()
        self._make_certificate()
        self.network.__enter__()
        try:
            self._start("migrate")
            [self.key] = self._runyard("migrate", "keys", "create", "shop", "--scope", "send")
            for service in self._services:
                self._start(service)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.network.__exit__()
        shutil.rmtree(self._postgres)

    @property
    def database_url(self) -> str:
        """The URL of the database from outside."""
        address = self.network.addresses["postgres"]
        return self._url().replace("@postgres/", f"@{address}/")

    def hosts_of(self, service: str) -> list[str]:
        """The hosts of a service: one for each of its replicas."""
        replicas = self._services[service].get("deploy", {}).get("replicas", 1)
        return [service] if replicas == 1 else [f"{service}-{n}" for n in range(1, replicas + 1)]

    def is_healthy(self, service: str, host: str) -> bool:
        """What the service's own health check says on this host."""
        kind, *test = self._services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(service, host, test).returncode == 0

    def post(self, path: str, body: object, key: str = "") -> dict[str, Any]:
        """Send a request to the public API, through the proxy with TLS; return the answer."""
        trusted = ssl.create_default_context(cafile=str(self._folder / "proxy/tls/fullchain.pem"))
        request = urllib.request.Request(
            f"https://{self.network.addresses['proxy']}:8443{path}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=90, context=trusted) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def _start(self, service: str) -> None:
        """Start a service once what it depends on is in the state that it needs."""
        if service in self._is_up:
            return
        self._is_up.add(service)
        content = self._services[service]
        for other, dependency in content.get("depends_on", {}).items():
            self._start(other)
            self._wait_for(other, dependency["condition"])
        image = content["image"].partition(":")[0]
        for host in self.hosts_of(service):
            getattr(self, f"_start_{image}")(service, host)

    def start_another(self, service: str, host: str) -> None:
        """Start one more process of a service, and wait until it is healthy."""
        self._start_runyard(service, host)
        wait_until(lambda: self.is_healthy(service, host), 60)

    def _wait_for(self, service: str, condition: str) -> None:
        if condition == "service_healthy" and service != "postgres":
            for host in self.hosts_of(service):
                wait_until(lambda at=host: self.is_healthy(service, at), 60)

    def _start_runyard(self, service: str, host: str) -> None:
        command = self._services[service]["command"]
        if service == "migrate":
            self._runyard(service, *command)
            return
        variables = self._variables(service, host)
        program = [sys.executable, "-m", "runyard", *command]
        self.network.start(host, program, variables, self._folder / "app")

    def _start_redis(self, service: str, host: str) -> None:
        # Outside a container Redis refuses clients without a password.
        command = [*self._services[service]["command"], "--protected-mode", "no"]
        self.network.start(host, command, dict(os.environ), self._folder)

    def _start_nginx(self, service: str, host: str) -> None:
        folder = self._folder / service
        folder.mkdir(exist_ok=True)
        [source] = [
            volume.split(":")[0]
            for volume in self._services[service]["volumes"]
            if volume.endswith("/nginx.conf:ro")
        ]
        text = (manifests.DEPLOY / source).read_text()
        if "stream {" in text and _STREAM.exists():  # a part of nginx in its own image
            text = f"load_module {_STREAM};\n{text}"
        (folder / "nginx.conf").write_text(text)
        command = ["nginx", "-c", f"{folder}/nginx.conf", "-g", f"daemon off; pid {folder}/pid;"]
        where = self._services[service].get("network_mode", "").removeprefix("service:") or host
        self.network.start(where, command, dict(os.environ), folder)
        [port] = re.findall(r"listen (\d+)", text)
        wait_until(lambda: listens(self.network.addresses[where], int(port)))

    def _start_postgres(self, service: str, host: str) -> None:
        """A server that knows one user, who owns one database and is not a superuser."""
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        data = self._postgres
        shutil.chown(data, "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        subprocess.run(
            [*as_postgres, programs / "initdb", "--auth=trust", "--no-sync", data],
            check=True,
            capture_output=True,
        )
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all runyard {self.network.subnet} scram-sha-256\n")
        server = [*as_postgres, str(programs / "postgres"), "-D", str(data)]
        options = ["-c", "listen_addresses=*", "-c", f"unix_socket_directories={data}"]
        self.network.start(host, [*server, *options], dict(os.environ), data)
        socket = f"host={data} user=postgres dbname=postgres"
        wait_until(lambda: _connects(socket))
        with psycopg.connect(socket, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE runyard LOGIN PASSWORD '{_PASSWORD}'")
            connection.execute("CREATE DATABASE runyard OWNER runyard")

    def _runyard(self, service: str, *arguments: str) -> list[str]:
        """Run a command of Runyard on the host of a service; return the lines it prints."""
        done = self.run(service, service, ["runyard", *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def run(self, service: str, host: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        module, *arguments = command
        if module in ("runyard", "dagster"):
            command = [sys.executable, "-m", module, *arguments]
        return self.network.run(host, command, self._variables(service, host), self._folder / "app")

    def _variables(self, service: str, host: str) -> dict[str, str]:
        """The variables of a service, as the image and the compose file set them."""
        data = self._folder / "data" / host
        self.files.mkdir(mode=0o700, exist_ok=True)
        own = self._services[service].get("environment", {})
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "PYTHONPATH": str(self._folder / "engine"),
            "DAGSTER_HOME": str(self._folder / "app"),
            "RUNYARD_HOME": str(self._folder / "app"),
            "RUNYARD_DATA_DIR": str(data),
            "RUNYARD_LEASE_SECONDS": _LEASE_SECONDS,
            **manifests.env_file("runyard.env"),
            "DATABASE_URL": self._url(),
            **{name: value.replace("/files/", f"{self.files}/") for name, value in own.items()},
        }

    def _url(self) -> str:
        return manifests.env_file("runyard.env")["DATABASE_URL"].replace("PASSWORD", _PASSWORD)

    def _shares_a_host(self, service: str) -> bool:
        return "network_mode" in self._services[service]

    def _make_image(self) -> None:
        """The folder of the image, and the engine where nothing else of this project is."""
        for path, target in manifests.copied_into_the_image():
            place = self._folder / "app" / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place)
            else:
                shutil.copy(path, place)
        (self._folder / "engine").mkdir()
        (self._folder / "engine" / "runyard").symlink_to(ROOT / "runyard")
        (self._folder / "data").mkdir(mode=0o700)

    def _make_certificate(self) -> None:
        folder = self._folder / "proxy" / "tls"
        folder.mkdir(parents=True)
        name = f"subjectAltName=IP:{self.network.addresses['proxy']}"
        options = "-x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=proxy".split()
        files = ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
        subprocess.run(
            ["openssl", "req", *options, "-addext", name, *files], check=True, capture_output=True
        )


def _connects(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The whole layout, with every service up."""
    assert hosts.can_be_had(), "this test makes network namespaces: run it as root, with iproute2"
    with Deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


def mail(number: int) -> dict[str, Any]:
    return {"to": [f"ada{number}@example.com"], "subject": "Hello", "html": "<p>Hello</p>"}


def rows(deployment: Deployment, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(deployment.database_url) as connection:
        return connection.execute(query.encode()).fetchall()


def statuses(deployment: Deployment) -> set[str]:
    """The statuses of all invocations."""
    query = "SELECT DISTINCT status FROM runyard.invocations"
    return {row[0] for row in rows(deployment, query)}


def takers(deployment: Deployment, status: str = "") -> set[str]:
    """The hosts whose workers have begun a batch, or hold one with this status."""
    query = "SELECT split_part(worker, ':', 1), status FROM runyard.batches WHERE worker <> ''"
    return {host for host, found in rows(deployment, query) if status in ("", found)}


def test_an_event_through_the_proxy_with_tls_ends(deployment: Deployment) -> None:
    outcome = deployment.post("/functions/v1/send-email?wait=60", mail(0))
    assert [each["status"] for each in outcome["invocations"]] == ["succeeded"]


def test_the_mail_is_in_the_folder_that_the_hosts_share(deployment: Deployment) -> None:
    outcome = deployment.post("/functions/v1/send-email?wait=60", mail(1))
    file = outcome["invocations"][0]["output"]["file"]
    assert (deployment.files / "outbox" / file).is_file()


def test_a_request_without_a_key_is_refused(deployment: Deployment) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        deployment.post("/e/none", [], key="none")
    with refused.value:
        assert refused.value.code == 401


def test_the_tunnel_brings_out_the_dev_page_of_the_loopback(deployment: Deployment) -> None:
    address = deployment.network.addresses["web"]
    with closing(HTTPConnection(address, 8291, timeout=30)) as web:
        web.request("GET", "/dev", headers={"Host": "localhost:8290"})
        with web.getresponse() as answer:
            assert answer.status == 200


def test_every_health_check_passes(deployment: Deployment) -> None:
    for service in ("code", "daemon", "worker", "api", "web"):
        for host in deployment.hosts_of(service):
            wait_until(lambda of=service, at=host: deployment.is_healthy(of, at), 60)


def test_the_doctor_finds_nothing(deployment: Deployment) -> None:
    done = deployment.run("worker", "worker-1", ["runyard", "doctor"])
    assert done.returncode == 0, done.stdout


def test_when_a_worker_is_killed_the_others_end_everything(deployment: Deployment) -> None:
    def is_in_the_middle() -> bool:
        event = {"name": "email/send.requested", "data": mail(2)}
        deployment.post(f"/e/{deployment.key}", [event] * 20)
        return _SPARE in takers(deployment, "running")

    deployment.start_another("worker", _SPARE)
    wait_until(is_in_the_middle, 60)
    deployment.network.kill(_SPARE)
    wait_until(lambda: _SPARE in takers(deployment, "lost"), 60)
    wait_until(lambda: statuses(deployment) == {"succeeded"}, 90)
    outcome = deployment.post("/functions/v1/send-email?wait=60", mail(3))
    assert [each["status"] for each in outcome["invocations"]] == ["succeeded"]
    wait_until(lambda: not deployment.is_healthy("worker", _SPARE), 60)
    assert deployment.is_healthy("worker", "worker-1")
