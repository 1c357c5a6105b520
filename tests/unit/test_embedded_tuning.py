"""The embedded database is sized for the memory that the process may use."""

from pathlib import Path

import pytest

from runyard.store.embedded_tuning import memory_settings, usable_memory

GIGABYTE = 2**30


@pytest.mark.parametrize(
    ("gigabytes", "buffers"),
    [(0.25, "64MB"), (0.5, "128MB"), (2, "128MB"), (4, "256MB"), (64, "512MB")],
)
def test_shared_buffers_grow_with_the_memory_within_bounds(gigabytes: float, buffers: str) -> None:
    assert memory_settings(int(gigabytes * GIGABYTE))["shared_buffers"] == buffers


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"memory.max": "67108864\n"}),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "67108864\n"}),
        ("0::/of/the/host\n", {"memory.max": "67108864\n"}),
        (
            "4:memory:/a\n1:cpu,cpuacct:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": "67108864\n"},
        ),
        ("4:memory:/of/the/host\n", {"memory/memory.limit_in_bytes": "67108864\n"}),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, membership: str, files: dict[str, str]
) -> None:
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert usable_memory(groups, tmp_path / "membership") == 2**26


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n"])
def test_without_a_limit_the_memory_of_the_machine_counts(tmp_path: Path, limit: str) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "membership").write_text("0::/\n")
    without = usable_memory(tmp_path / "nothing", tmp_path / "nothing")
    assert usable_memory(tmp_path, tmp_path / "membership") == without
