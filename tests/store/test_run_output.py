"""What runs print is stored, read and deleted in time, also by processes of stock Dagster."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op

from runyard import clock
from runyard.dagster_adapter.compute_logs import WarmComputeLogManager
from runyard.dagster_adapter.internals import CapturedLogData, ComputeIOType
from runyard.dagster_adapter.output_pages import Subscription
from runyard.dagster_adapter.run_retention import sweep_runs
from runyard.engine import housekeeping, output_capture, output_files, run_output
from runyard.settings import settings
from runyard.store import database
from runyard.syntax.retention_policy import Retention
from tests.conftest import ROOT, wait_until
from tests.tables import rows

KEY = ["a-run", "compute_logs", "abcdefgh"]
PRINT = """
import subprocess, sys
from runyard.engine import output_capture
with output_capture.capturing(["a-run", "compute_logs", "abcdefgh"]):
    print("printed")
    print("a warning", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo of a child; echo no child >&2"], check=True)
print("not of the run")
"""
FAIL = """
from runyard.engine import output_capture
with output_capture.capturing(["a-run", "compute_logs", "abcdefgh"]):
    print("printed")
    raise KeyboardInterrupt
"""
FORK = """
import os, sys
from runyard.engine import output_capture
with output_capture.capturing(["a-run", "compute_logs", "abcdefgh"]):
    print("by the parent", flush=True)
    if not os.fork():
        print("by the child", flush=True)
        sys.exit()
    os.wait()
"""
JOB = """
import sys
from dagster import job, op

@op
def talk():
    print("printed by an op")
    print("a warning of an op", file=sys.stderr)

@job
def talking():
    talk()
"""


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The instance of this folder's `dagster.yaml`."""
    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def manager(instance: DagsterInstance) -> WarmComputeLogManager:
    """The manager that `dagster.yaml` names."""
    manager = instance.compute_log_manager
    assert isinstance(manager, WarmComputeLogManager)
    return manager


@pytest.fixture
def other_host(tmp_path: Path) -> Path:
    """The data folder of another host."""
    folder = tmp_path / "other"
    folder.mkdir(mode=0o700)
    return folder


def on(host: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments on a host."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "RUNYARD_DATA_DIR": str(host), **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def store(key: Sequence[str], text: str = "text\n", stream: str = run_output.OUT) -> None:
    """Store something under a key."""
    with output_capture.stream_of(key, stream) as file:
        assert file is not None
        file.write(text)


def files(host: Path) -> list[Path]:
    return list((host / "output").glob("*"))


def test_what_a_process_and_its_children_print_is_stored(other_host: Path) -> None:
    on(other_host, "-c", PRINT)
    assert run_output.read(KEY) == {
        "out": b"printed\nof a child\n",
        "err": b"a warning\nno child\n",
    }


def test_what_is_printed_before_and_after_is_not(other_host: Path) -> None:
    assert on(other_host, "-c", PRINT).stdout == "not of the run\n"


def test_what_is_stored_leaves_no_file(other_host: Path) -> None:
    on(other_host, "-c", PRINT)
    assert files(other_host) == []


def test_a_run_that_is_interrupted_has_output(other_host: Path) -> None:
    on(other_host, "-c", FAIL)
    assert run_output.read(KEY) == {"out": b"printed\n"}


def test_a_child_of_a_step_that_ends_early_stores_nothing(other_host: Path) -> None:
    on(other_host, "-c", FORK)
    assert run_output.read(KEY) == {"out": b"by the parent\nby the child\n"}


def test_with_a_limit_of_0_output_stays_with_that_of_the_process(other_host: Path) -> None:
    done = on(other_host, "-c", PRINT, RUNYARD_RUN_OUTPUT_BYTES="0")
    assert set(done.stdout.splitlines()) == {"printed", "of a child", "not of the run"}
    assert run_output.read(KEY) == {}


def test_without_a_database_a_run_goes_on_and_says_so(other_host: Path) -> None:
    done = on(other_host, "-c", PRINT, DATABASE_URL="postgresql://localhost:1/none")
    assert done.returncode == 0
    assert "the output of a-run/compute_logs/abcdefgh is not saved" in done.stderr


def test_what_could_not_be_stored_is_stored_later(
    other_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(other_host, "-c", PRINT, DATABASE_URL="postgresql://localhost:1/none")
    for path in files(other_host):
        os.utime(path, (0, 0))
    monkeypatch.setattr(settings(), "data_dir", other_host)
    assert output_files.save_left_behind() == 2
    assert run_output.read(KEY)["out"] == b"printed\nof a child\n"
    assert files(other_host) == []


@pytest.fixture
def left_behind(monkeypatch: pytest.MonkeyPatch, other_host: Path) -> Path:
    """A folder with the files of a process that is gone, in any order."""
    monkeypatch.setattr(settings(), "data_dir", other_host)
    folder = other_host / "output"
    folder.mkdir()
    for number in range(9):
        (folder / f"run-{number}+x.out").write_text("text\n")
    return folder


def save_left_behind(folder: Path) -> int:
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    return output_files.save_left_behind()


def test_a_folder_among_the_files_that_were_left_behind_is_passed_over(left_behind: Path) -> None:
    (left_behind / "run-x+x.out").mkdir()
    assert save_left_behind(left_behind) == 9


@pytest.mark.parametrize("name", [b"notes.txt", b"\xff.out"])
def test_a_file_that_cannot_be_stored_does_not_stop_the_others(
    left_behind: Path, name: bytes
) -> None:
    (left_behind / os.fsdecode(name)).write_text("text\n")
    assert save_left_behind(left_behind) == 9
    assert [path.name for path in left_behind.iterdir()] == [os.fsdecode(name)]


def test_a_file_that_cannot_be_stored_is_told_of_once(
    left_behind: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (left_behind / "notes.txt").write_text("text\n")
    save_left_behind(left_behind)
    save_left_behind(left_behind)
    assert caplog.text.count("notes.txt is not stored: CheckViolation") == 1


def test_the_file_of_a_living_process_is_left_to_it(
    other_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "data_dir", other_host)
    with output_capture.stream_of(KEY, "out") as file:
        assert file is not None
        file.write("text\n")
        file.flush()
        [path] = files(other_host)
        os.utime(path, (0, 0))
        assert output_files.save_left_behind() == 0
        assert path.exists()


def test_output_is_read_from_a_place_on() -> None:
    store(KEY, "0123456789")
    assert run_output.read(KEY, out=4) == {"out": b"456789"}


def test_nothing_is_behind_the_end() -> None:
    store(KEY, "0123456789")
    assert run_output.read(KEY, out=10) == {}


@pytest.fixture
def pieces() -> None:
    """Ten bytes under the key, in pieces of four: 0123 4567 89."""
    rows(
        "INSERT INTO runyard.run_output (key, stream, start, content) VALUES"
        " (%(key)s, 'out', 0, '0123'), (%(key)s, 'out', 4, '4567'), (%(key)s, 'out', 8, '89'),"
        " (%(key)s, 'err', 0, 'error') RETURNING 1".replace("%(key)s", f"'{'/'.join(KEY)}'")
    )


@pytest.mark.parametrize("place", range(11))
@pytest.mark.parametrize("most", [1, 3, 4, 5, 9, 10, 2**63, None])
def test_no_more_is_read_than_was_asked_for(pieces: None, place: int, most: int | None) -> None:
    end = None if most is None else place + most
    read = run_output.read(KEY, out=place, streams=["out"], most=most)
    assert read.get("out", b"") == b"0123456789"[place:end]


def test_all_of_a_stream_is_read_in_pieces(pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_output, "_PIECE", 3)
    assert list(run_output.read_pieces(KEY, "out")) == [b"012", b"345", b"678", b"9"]


@pytest.mark.parametrize("place", [-1, 2**31, 2**70])
def test_a_cursor_that_nobody_gave_out_is_no_error(pieces: None, place: int) -> None:
    assert run_output.read(KEY, out=place, streams=["out"]).get("out") in {None, b"0123456789"}


def test_a_stream_that_has_nothing_is_known_without_reading_it(pieces: None) -> None:
    assert run_output.has_some(KEY, "out")
    assert not run_output.has_some(["another"], "out")


def test_a_download_has_all_of_the_stream(pieces: None, manager: WarmComputeLogManager) -> None:
    manager.download_from_cloud_storage(KEY, ComputeIOType.STDERR)
    path = manager.local_manager.get_captured_local_path(KEY, "err")
    assert Path(path).read_bytes() == b"error"


def test_what_is_printed_while_a_run_works_is_stored(other_host: Path, tmp_path: Path) -> None:
    waiting = PRINT.replace("    subprocess", "    sys.stdin.read()\n    subprocess")
    process = subprocess.Popen(
        [sys.executable, "-c", waiting],
        env={**os.environ, "RUNYARD_DATA_DIR": str(other_host)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
    )
    with process:
        wait_until(lambda: run_output.read(KEY) == {"out": b"printed\n", "err": b"a warning\n"})
        process.communicate()
    assert run_output.read(KEY)["out"] == b"printed\nof a child\n"


def test_output_of_a_key_is_deleted(manager: WarmComputeLogManager) -> None:
    store(KEY)
    store(["b-run"])
    manager.delete_logs(log_key=KEY)
    assert run_output.read(KEY) == {}
    assert run_output.read(["b-run"]) == {"out": b"text\n"}


def test_output_below_a_key_is_deleted(manager: WarmComputeLogManager) -> None:
    store(KEY)
    store(["a-run-2", "x"])
    store(["a", "x"])
    manager.delete_logs(prefix=["a-run"])
    kept = [row["key"] for row in rows("SELECT key FROM runyard.run_output ORDER BY key")]
    assert kept == ["a-run-2/x", "a/x"]


def test_something_to_delete_must_be_named(manager: WarmComputeLogManager) -> None:
    with pytest.raises(ValueError, match="log_key or a prefix"):
        manager.delete_logs()


def test_old_output_is_deleted() -> None:
    store(["old"])
    rows("UPDATE runyard.run_output SET saved_at = now() - interval '31 days' RETURNING 1")
    store(["new"])
    assert housekeeping.purge_run_output() == 1
    assert [row["key"] for row in rows("SELECT key FROM runyard.run_output")] == ["new"]


def test_output_that_is_kept_forever_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    store(["old"])
    rows("UPDATE runyard.run_output SET saved_at = now() - interval '9 years' RETURNING 1")
    monkeypatch.setattr(settings(), "retention", "forever")
    assert housekeeping.purge_run_output() == 0


def test_the_output_of_a_run_is_deleted_with_it(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(talking, status=DagsterRunStatus.SUCCESS)
    store([run.run_id, "compute_logs", "abcdefgh"])
    store(["another"])
    clock.freeze(clock.now() + timedelta(hours=2))
    try:
        sweep_runs(instance, retention=Retention.parse("1h"))
    finally:
        clock.freeze(None)
        database.close_pool()
    assert [row["key"] for row in rows("SELECT key FROM runyard.run_output")] == ["another"]


def test_what_a_sensor_logs_is_read_by_its_tick(manager: WarmComputeLogManager) -> None:
    key = ["a repository", "a/sensor", "1"]
    with manager.open_log_stream(key, ComputeIOType.STDERR) as stream:
        assert stream is not None
        stream.write('{"message": "looked"}\n')
    assert manager.get_log_data(key).stderr == b'{"message": "looked"}\n'


def test_a_sensor_that_logs_nothing_leaves_nothing(manager: WarmComputeLogManager) -> None:
    with manager.open_log_stream(["a", "b"], ComputeIOType.STDERR):
        pass
    assert rows("SELECT FROM runyard.run_output") == []


def test_a_key_of_any_length_is_kept(manager: WarmComputeLogManager) -> None:
    key = ["repository" * 50, "sensor", "1"]
    store(key)
    assert manager.get_log_data(key).stdout == b"text\n"


def test_the_keys_below_a_prefix_are_found(manager: WarmComputeLogManager) -> None:
    for key in (["backfill", "id", "1"], ["backfill", "id", "2"], ["backfill", "id2", "3"]):
        store(key, stream=run_output.ERR)
    found = manager.get_log_keys_for_log_key_prefix(["backfill", "id"], ComputeIOType.STDERR)
    assert found == [["backfill", "id", "1"], ["backfill", "id", "2"]]


def test_a_cursor_tells_the_places_in_both_streams(manager: WarmComputeLogManager) -> None:
    store(KEY, "out\n")
    store(KEY, "error\n", stream=run_output.ERR)
    first = manager.get_log_data(KEY, max_bytes=4)
    assert first.stdout == b"out\n"
    assert first.stderr == b"erro"
    second = manager.get_log_data(KEY, first.cursor)
    assert second.stdout is None
    assert second.stderr == b"r\n"
    assert second.cursor == "4:6"


def test_a_page_is_sent_what_is_printed_until_the_run_ends(
    instance: DagsterInstance, manager: WarmComputeLogManager
) -> None:
    run = instance.create_run_for_job(talking, status=DagsterRunStatus.STARTED)
    key, sent = [run.run_id, "compute_logs", "abcdefgh"], list[CapturedLogData]()
    page = manager.subscribe(key)
    assert isinstance(page, Subscription)
    page(sent.append)
    assert [each.stdout for each in sent] == [None]
    store(key, "text\n")
    wait_until(lambda: [each.stdout for each in sent] == [None, b"text\n"])
    assert not page.is_complete
    instance.report_run_canceled(run)
    wait_until(lambda: page.is_complete)


def test_a_page_that_is_closed_is_sent_nothing(
    instance: DagsterInstance, manager: WarmComputeLogManager
) -> None:
    run = instance.create_run_for_job(talking, status=DagsterRunStatus.STARTED)
    key = [run.run_id, "compute_logs", "abcdefgh"]
    sent_to_closed, sent_to_open = list[CapturedLogData](), list[CapturedLogData]()
    closed = manager.subscribe(key)(sent_to_closed.append)
    still_open = manager.subscribe(key)(sent_to_open.append)
    closed.dispose()
    store(key, "text\n")
    wait_until(lambda: len(sent_to_open) == 2)
    still_open.dispose()
    assert len(sent_to_closed) == 1


def test_a_page_that_fails_does_not_keep_the_others_waiting(
    instance: DagsterInstance, manager: WarmComputeLogManager
) -> None:
    run = instance.create_run_for_job(talking, status=DagsterRunStatus.STARTED)
    key, failures, sent = [run.run_id, "compute_logs", "abcdefgh"], list[bytes](), list[bytes]()

    def fail(data: CapturedLogData) -> None:
        if data.stdout:
            failures.append(data.stdout)
            raise RuntimeError("Event loop is closed")

    failing = [manager.subscribe(key)(fail) for _ in range(8)]
    working = manager.subscribe(key)(lambda data: sent.append(data.stdout or b""))
    store(key, "text\n")
    wait_until(lambda: sent == [b"", b"text\n"])
    wait_until(lambda: len(failures) >= 2 * len(failing))
    for page in [*failing, working]:
        page.dispose()


def test_two_threads_send_a_page_what_is_printed_once(
    instance: DagsterInstance, manager: WarmComputeLogManager
) -> None:
    store(KEY, "text\n")
    sent, is_sending, sent_again = list[bytes | None](), threading.Event(), threading.Event()

    def observe(data: CapturedLogData) -> None:
        (sent_again if is_sending.is_set() else is_sending).set()
        sent.append(data.stdout)
        sent_again.wait(1)

    page = Subscription(manager, KEY, None)
    first = threading.Thread(target=page, args=(observe,))
    first.start()
    is_sending.wait()
    page.update()
    first.join()
    assert sent == [b"text\n"]


@pytest.mark.parametrize("config", ["{}", "execution: {config: {in_process: {}}}"])
def test_the_output_of_a_run_of_stock_dagster_is_stored(
    instance: DagsterInstance, other_host: Path, tmp_path: Path, config: str
) -> None:
    (tmp_path / "talk.py").write_text(JOB)
    (tmp_path / "config.yaml").write_text(config)
    job = ["-f", f"{tmp_path}/talk.py", "-j", "talking", "-c", f"{tmp_path}/config.yaml"]
    done = on(other_host, "-m", "dagster", "job", "execute", *job)
    assert done.returncode == 0, done.stderr
    [run] = instance.get_runs(limit=1)
    printed = [
        (row["stream"], bytes(row["content"]))
        for row in rows(
            "SELECT stream, content FROM runyard.run_output WHERE key LIKE %s ORDER BY stream DESC",
            f"{run.run_id}/compute_logs/%",
        )
    ]
    assert ("out", b"printed by an op\n") in printed
    assert any(b"a warning of an op\n" in text for stream, text in printed if stream == "err")


@op
def talk() -> None:
    print("talk")


@job
def talking() -> None:
    talk()
