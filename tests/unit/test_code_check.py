"""Code that does not load is described in one line with its place, whatever it does on import."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.processes.code_check import (
    CodeChecker,
    check_code,
    remember_problem,
    remembered_problem,
)
from runyard.processes.code_location import CodeProblem, load_code
from runyard.settings import settings

GOOD = """
from dagster import in_process_executor, job
from runyard import BatchIOManager, on_event, receive, settle
from dagster import Definitions

@job(executor_def=in_process_executor)
def greet():
    settle(receive())

sensor = on_event("greet/requested", job=greet)
defs = Definitions(jobs=[greet], sensors=[sensor], resources={"io_manager": BatchIOManager()})
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The code location of a project of its own, which begins with code that loads."""
    for name, value in (
        ("RUNYARD_HOME", str(tmp_path)),
        ("DAGSTER_HOME", str(tmp_path)),
        ("RUNYARD_DATA_DIR", str(tmp_path / "data")),
        ("RUNYARD_CODE", "shop_code"),
        ("RUNYARD_CATALOG", "shop_events"),
        ("PYTHONPATH", str(Path(__file__).parents[2])),
    ):
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    path = tmp_path / "shop_code.py"
    path.write_text(GOOD)
    yield path
    monkeypatch.undo()
    settings.cache_clear()


def test_code_that_loads_has_no_problem_and_its_functions_are_named(code: Path) -> None:
    check = check_code()
    assert check.problem is None
    assert check.functions == ("greet",)


@pytest.mark.parametrize(
    ("first_line", "says"),
    [
        ("def greet(:", "shop_code.py:1: SyntaxError: invalid syntax"),
        ("greet()", "shop_code.py:1: NameError: name 'greet' is not defined"),
        ("import nobody", "shop_code.py:1: ModuleNotFoundError: No module named 'nobody'"),
        ("raise SystemExit(3)", "shop_code.py:1: SystemExit: 3"),
        ("import os; os._exit(4)", "loading the code ended its process with exit code 4"),
        (
            "import os; os.kill(os.getpid(), 11)",
            "loading the code ended its process with signal 11",
        ),
        (
            "from runyard import Retry; Retry(attempts=0)",
            "shop_code.py:1: Retry(attempts=0): give 1 to 20",
        ),
        (
            "raise ValueError('postgresql://me:hunter2secret@host/db')",
            "shop_code.py:1: ValueError: postgresql://me:[redacted]@host/db",
        ),
    ],
)
def test_a_problem_is_one_line_with_its_place(code: Path, first_line: str, says: str) -> None:
    code.write_text(first_line + GOOD)
    assert str(check_code().problem) == says


def test_the_place_is_the_projects_line_and_not_that_of_a_package_it_calls(code: Path) -> None:
    bad = GOOD.replace('on_event("greet/requested", ', "on_event(")
    code.write_text(bad)
    problem = check_code().problem
    assert problem is not None
    line = bad.splitlines().index("sensor = on_event(job=greet)") + 1
    assert (problem.file, problem.line) == ("shop_code.py", line)


def test_the_error_of_a_module_that_the_code_imports_is_in_that_module(code: Path) -> None:
    (code.parent / "helpers.py").write_text("\n\n1 / 0\n")
    code.write_text(f"import helpers\n{GOOD}")
    assert str(check_code().problem) == "helpers.py:3: ZeroDivisionError: division by zero"


def test_a_module_of_the_web_process_alone_is_checked_too(code: Path) -> None:
    (code.parent / "shop_events.py").write_text("order\n")
    assert str(check_code().problem).startswith("shop_events.py:1: NameError")


def test_code_that_hangs_is_a_problem_with_the_line_where_it_hangs(code: Path) -> None:
    code.write_text(f"import threading\nthreading.Event().wait()\n{GOOD}")
    problem = check_code(0.5).problem
    assert problem is not None
    assert (problem.file, problem.line) == ("shop_code.py", 2)
    assert "has not loaded within 0.5 s" in problem.text


def test_what_code_prints_is_no_answer(code: Path) -> None:
    code.write_text(f"print('{{}}')\n{GOOD}")
    assert check_code().functions == ("greet",)


def test_code_without_definitions_is_a_problem(code: Path) -> None:
    code.write_text("x = 1\n")
    assert "the module shop_code has no Definitions" in str(check_code().problem)


def test_code_with_two_definitions_is_a_problem(code: Path) -> None:
    code.write_text(
        "from dagster import Definitions\n\nown = Definitions()\ndefs = Definitions()\n"
    )
    assert "the module shop_code has 2 Definitions (own, defs)" in str(check_code().problem)


def test_a_project_without_the_code_location_is_a_problem(code: Path) -> None:
    code.unlink()
    assert "there is no module shop_code in" in str(check_code().problem)


def test_a_process_that_was_prepared_sees_the_code_of_now(code: Path) -> None:
    checker = CodeChecker()
    assert checker.check().problem is None
    checker.prepare()
    code.write_text(f"1 / 0\n{GOOD}")
    assert str(checker.check().problem) == "shop_code.py:1: ZeroDivisionError: division by zero"


def test_a_problem_is_remembered_until_the_code_loads_again(code: Path) -> None:
    problem = CodeProblem("NameError: x", "shop_code.py", 3)
    remember_problem(problem)
    assert remembered_problem() == problem
    remember_problem(None)
    assert remembered_problem() is None


def test_garbage_is_not_collected_while_code_loads_but_again_after_it_has_failed(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code.write_text("import gc; raise ValueError(f'collecting: {gc.isenabled()}')")
    monkeypatch.syspath_prepend(code.parent)
    with pytest.raises(ValueError, match="collecting: False"):
        load_code()
    assert gc.isenabled()
