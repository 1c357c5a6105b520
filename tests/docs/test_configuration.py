"""docs/configuration.md lists every setting and is up to date."""

import re

from click.testing import CliRunner

from runyard.cli import configuration
from runyard.cli.main import main
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
_VARIABLE = re.compile(r"\b(?:RUNYARD_[A-Z_]*[A-Z]|DATABASE_URL)\b")


def test_the_page_is_up_to_date() -> None:
    assert configuration.reference() == PAGE, (
        "the settings have changed: run `runyard configuration > docs/configuration.md`"
    )


def test_the_command_prints_the_page() -> None:
    assert CliRunner().invoke(main, ["configuration"]).output == PAGE


def test_every_setting_has_a_description() -> None:
    undocumented = [
        configuration.variable(section, name, field)
        for section in configuration.sections()
        for name, field in configuration.own_fields(section).items()
        if not field.description
    ]
    assert undocumented == []


def test_every_variable_that_the_engine_reads_is_documented() -> None:
    named = {
        variable
        for path in (ROOT / "runyard").rglob("*.py")
        for variable in _VARIABLE.findall(path.read_text(encoding="utf-8"))
    }
    assert sorted(named - set(_VARIABLE.findall(PAGE))) == []


def test_secrets_are_hidden_in_the_values() -> None:
    values = dict(configuration.values())
    assert values["DATABASE_URL"] == "**********"
