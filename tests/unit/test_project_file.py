"""Settings in the project's pyproject.toml, below the environment."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from runyard.cli.main import main
from runyard.errors import InvalidOption
from runyard.settings import Settings, settings

MODULES = ("catalog", "http_extensions", "pages", "checks", "report", "migrations", "settings")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which the environment names as the project's."""
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    for name in ("CODE", "PORT", "DATA_DIR", "POSTGRES_DIR"):
        monkeypatch.delenv(f"RUNYARD_{name}")
    return tmp_path


def write(home: Path, *lines: str, table: str = "[tool.runyard]") -> None:
    (home / "pyproject.toml").write_text("\n".join([table, *lines, ""]))


def refusal(home: Path, *lines: str) -> str:
    write(home, *lines)
    with pytest.raises(InvalidOption) as caught:
        Settings()
    return str(caught.value)


def test_a_setting_of_the_file_is_used(home: Path) -> None:
    write(home, "port = 8300")
    assert Settings().port == 8300


def test_the_environment_overrides_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "port = 8300")
    monkeypatch.setenv("RUNYARD_PORT", "8400")
    assert Settings().port == 8400


def test_a_list_is_written_as_a_list(home: Path) -> None:
    write(home, 'cors_origins = ["https://shop.example", "https://blog.example"]')
    assert Settings().cors_origins == ["https://shop.example", "https://blog.example"]


def test_a_path_is_relative_to_the_file(home: Path) -> None:
    write(home, 'data_dir = "var"', 'postgres_dir = "database"')
    assert (Settings().data, Settings().postgres_dir) == (home / "var", home / "database")


def test_a_file_without_the_table_sets_nothing(home: Path) -> None:
    write(home, "line-length = 100", table="[tool.ruff]")
    assert Settings().port == 8290


def test_a_misspelt_key_is_refused_with_the_nearest_name(home: Path) -> None:
    message = refusal(home, 'retension = "90d"')
    assert message == (
        f"{home}/pyproject.toml, [tool.runyard] retension: there is no such setting; did you mean"
        " retention?"
    )


def test_a_key_like_no_other_is_refused_with_all_names(home: Path) -> None:
    assert "there are allowed_hosts, apps, body_bytes, catalog, checks, client_timeout" in refusal(
        home, "zzzz = 1"
    )


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("database_url", "DATABASE_URL"),
        ("direct_database_url", "RUNYARD_DIRECT_DATABASE_URL"),
        ("broker_url", "RUNYARD_BROKER_URL"),
        ("signing_secrets", "RUNYARD_SIGNING_SECRETS"),
        ("home", "RUNYARD_HOME"),
    ],
)
def test_secrets_and_the_folder_itself_belong_in_the_environment(
    home: Path, key: str, variable: str
) -> None:
    assert refusal(home, f'{key} = "x"').endswith(
        f"{key}: must not be in the file: set the environment variable {variable}"
    )


def test_a_file_that_is_not_toml_is_an_error_with_its_line(home: Path) -> None:
    assert "cannot be read" in refusal(home, "port = ")


def test_a_wrong_value_is_an_error_with_the_place_in_the_file(home: Path) -> None:
    write(home, "port = 99999")
    with pytest.raises(ValidationError):
        Settings()
    settings.cache_clear()
    result = CliRunner().invoke(main, ["functions"])
    settings.cache_clear()
    assert (result.exit_code, result.output) == (
        1,
        "runyard: pyproject.toml, [tool.runyard] port: Input should be less than or equal to"
        " 65535\n",
    )


def test_the_modules_of_a_project_are_in_the_package_of_its_code(home: Path) -> None:
    write(home, 'code = "shop.definitions"')
    chosen = Settings()
    assert {getattr(chosen, name) for name in MODULES} == {
        "shop.events",
        "shop.http_extensions",
        "shop.pages",
        "shop.checks",
        "shop.report",
        "shop.migrations",
        "shop.settings",
    }


def test_code_outside_of_a_package_has_only_the_modules_that_are_set(home: Path) -> None:
    write(home, 'code = "definitions"', 'catalog = "event_types"')
    chosen = Settings()
    assert [name for name in MODULES if getattr(chosen, name)] == ["catalog"]


def test_a_module_that_is_not_set_is_skipped(home: Path) -> None:
    write(home, 'code = "definitions"')
    assert Settings().project_module("pages") is None
