"""`runyard init`, `add` and `check`, each in a project of its own."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def run_in(folder: Path, *command: str) -> Result:
    """A command of Python modules in a folder, with this checkout's engine and no settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNYARD_", "DAGSTER_", "DATABASE_URL"))
    }
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def said(result: Result) -> tuple[int, str]:
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `runyard` in an empty folder."""
    return lambda *arguments, folder=tmp_path: run_in(folder, "runyard", *arguments)


@pytest.fixture
def shop(run: Run, tmp_path: Path) -> Path:
    """A new project."""
    result = run("init", "shop")
    assert result.returncode == 0, result.stderr
    return tmp_path / "shop"


def write(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join([*lines, ""]))


# runyard init


def test_init_says_what_to_do_next(run: Run) -> None:
    code, text = said(run("init", "shop"))
    assert (code, text.splitlines()[:2]) == (
        0,
        ["Made the project shop: 11 files in shop.", "Run it:   cd shop && runyard up"],
    )


def test_the_readme_of_a_project_has_ten_lines(shop: Path) -> None:
    assert len((shop / "README.md").read_text().splitlines()) <= 11


def test_a_project_has_the_dagster_yaml_of_this_repository(shop: Path) -> None:
    assert (shop / "dagster.yaml").read_text() == (ROOT / "dagster.yaml").read_text()


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy", "--no-error-summary")],
    ids=["lint", "format", "types"],
)
def test_a_project_with_added_functions_passes(run: Run, shop: Path, command: list[str]) -> None:
    for name, event in (("charge_card", "shop/order.placed"), ("wave", "hello/requested")):
        assert run("add", "function", name, "--event", event, folder=shop).returncode == 0
    code, text = said(run_in(shop, *command))
    assert code == 0, text


def test_the_package_of_a_project_has_a_name_that_python_takes(run: Run, tmp_path: Path) -> None:
    run("init", "my-shop")
    pyproject = tomllib.loads((tmp_path / "my-shop/pyproject.toml").read_text())
    assert (pyproject["project"]["name"], pyproject["tool"]["runyard"]["code"]) == (
        "my-shop",
        "my_shop.definitions",
    )


def test_a_project_is_made_in_the_current_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "kiosk"
    (folder / ".git").mkdir(parents=True)
    assert run("init", ".", folder=folder).returncode == 0
    assert (folder / "kiosk/definitions.py").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1shop", "begin with a letter"),
        ("shöp", "begin with a letter"),
        ("class", "is a keyword of Python"),
        ("json", "there is a package json already"),
        ("pydantic", "there is a package pydantic already"),
        ("tests", "there is a package tests already"),
    ],
)
def test_a_name_that_cannot_be_that_of_a_package_is_refused(
    run: Run, tmp_path: Path, name: str, reason: str
) -> None:
    code, text = said(run("init", name))
    assert (code, reason in text, text.count("\n")) == (1, True, 1)
    assert list(tmp_path.iterdir()) == []


def test_init_overwrites_nothing(run: Run, shop: Path) -> None:
    write(shop, "README.md", "mine")
    code, text = said(run("init", "shop"))
    assert (code, text) == (
        1,
        f"runyard: in {shop} there is already pyproject.toml, README.md, .gitignore and 8 more,"
        " and nothing is overwritten: choose another name or folder\n",
    )
    assert (shop / "README.md").read_text() == "mine\n"


# runyard init --into


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """A Dagster project that knows nothing of Runyard."""
    folder = tmp_path / "warehouse"
    (folder / "warehouse").mkdir(parents=True)
    write(folder, "pyproject.toml", "# mine", "[tool.dagster]", 'module_name = "warehouse.defs"')
    write(folder, "warehouse/__init__.py")
    write(folder, "warehouse/defs.py", "from dagster import Definitions", "", "d = Definitions()")
    return folder


def test_into_adds_to_a_dagster_project_and_says_what(run: Run, warehouse: Path) -> None:
    lines = run("init", "--into", ".", folder=warehouse).stdout.splitlines()
    assert lines[:5] == [
        "Added to pyproject.toml: [tool.runyard], code = warehouse.defs",
        "Wrote dagster.yaml",
        "Wrote workspace.yaml",
        "Wrote .gitignore: .runyard/, the data folder",
        "",
    ]
    assert "    defs = definitions(your_function, Definitions(...))" in lines
    assert f"Add runyard>={version('runyard')} to the dependencies of the project." in lines
    assert '    eval "$(runyard env)"' in lines


def test_into_knows_a_dependency_that_is_there(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", "[project]", 'dependencies = ["dagster", "Runyard>=0.1"]')
    text = run("init", "--into", ".", "--code", "depot.definitions").stdout
    assert "to the dependencies of the project" not in text


def test_into_only_appends_to_what_is_there(run: Run, warehouse: Path) -> None:
    (warehouse / ".gitignore").write_text("*.log")
    before = (warehouse / "pyproject.toml").read_text()
    run("init", "--into", ".", folder=warehouse)
    assert (warehouse / "pyproject.toml").read_text() == (
        f'{before}\n[tool.runyard]\ncode = "warehouse.defs"\n'
    )
    assert (warehouse / ".gitignore").read_text() == "*.log\n.runyard/\n"
    assert (warehouse / "warehouse/defs.py").read_text().startswith("from dagster")


def test_into_leaves_a_dagster_yaml_and_says_what_it_lacks(run: Run, warehouse: Path) -> None:
    write(warehouse, "dagster.yaml", "storage: {sqlite: {base_dir: here}}")
    text = run("init", "--into", ".", folder=warehouse).stdout
    start = text.index("Put these sections into it (instead of storage):\n\n    ") + 50
    sections = yaml.safe_load(text[start : text.index("\n\nThen `runyard check`")])
    assert {**sections} == {
        name: value
        for name, value in yaml.safe_load((ROOT / "dagster.yaml").read_text()).items()
        if name in sections
    }
    assert "run_launcher" in sections
    assert (warehouse / "dagster.yaml").read_text() == "storage: {sqlite: {base_dir: here}}\n"


def test_into_a_second_time_changes_nothing(run: Run, warehouse: Path) -> None:
    run("init", "--into", ".", folder=warehouse)
    before = {path: path.read_bytes() for path in warehouse.rglob("*") if path.is_file()}
    text = run("init", "--into", ".", folder=warehouse).stdout
    assert text.startswith("Nothing is missing here: no file was changed.\n")
    assert {path: path.read_bytes() for path in warehouse.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("pyproject.toml", '[tool.dg.project]\nroot_module = "depot"', "depot.definitions"),
        ("workspace.yaml", "load_from: [{python_module: depot.all}]", "depot.all"),
        ("workspace.yaml", "load_from: [{python_module: {module_name: depot}}]", "depot"),
        ("definitions.py", "", "definitions"),
    ],
)
def test_into_finds_the_definitions_where_dagster_does(
    run: Run, tmp_path: Path, file: str, text: str, code: str
) -> None:
    write(tmp_path, file, text)
    run("init", "--into", ".")
    table = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["runyard"]
    assert table == {"code": code}


def test_into_a_folder_without_a_dagster_project_is_refused(run: Run, tmp_path: Path) -> None:
    code, text = said(run("init", "--into", "."))
    assert (code, text.count("\n")) == (1, 1)
    assert "name the module with its Definitions, as in --code my_project.definitions" in text
    assert list(tmp_path.iterdir()) == []


# runyard add function


def test_an_event_with_a_type_is_used_with_it(run: Run, shop: Path) -> None:
    code, text = said(run("add", "function", "wave", "--event", "hello/requested", folder=shop))
    assert (code, text) == (0, "Wrote shop/functions/wave.py\nWrote tests/test_wave.py\n")
    assert "@function(HelloRequested)" in (shop / "shop/functions/wave.py").read_text()
    assert 'DATA: dict[str, object] = {"name": "Ada"}' in (shop / "tests/test_wave.py").read_text()


@pytest.mark.parametrize(
    ("name", "event", "reason"),
    [
        ("hello", "a/b", "the name hello is taken in shop/functions/hello.py:21: choose another"),
        ("greet", "a/b", "the name greet is taken in shop/functions/hello.py:9: choose another"),
        ("say-hello", "a/b", "'say-hello' cannot be the name of a function"),
        ("class", "a/b", "'class' cannot be the name of a function"),
        ("wave", 'a"b', "cannot be the name of an event"),
    ],
)
def test_a_function_that_cannot_be_added_is_refused(
    run: Run, shop: Path, name: str, event: str, reason: str
) -> None:
    code, text = said(run("add", "function", name, "--event", event, folder=shop))
    assert (code, reason in text, text.count("\n")) == (1, True, 1)


@pytest.mark.parametrize(("source", "says"), [(".", ""), ("src", "src/")])
def test_a_project_without_a_package_of_functions_is_told_where_it_belongs(
    run: Run, tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / source / "depot").mkdir(parents=True)
    run("init", "--into", ".", "--code", "depot.definitions")
    code, text = said(run("add", "function", "wave", "--event", "a/b"))
    assert code == 1
    assert text == (
        f"runyard: there is no package {tmp_path}/{says}depot/functions: make it, with an"
        " __init__.py, and give it to definitions(...) in depot.definitions\n"
    )


# runyard check


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["import nowhere"], ":1: ModuleNotFoundError: No module named 'nowhere'"),
        (["x = = 1"], ":1: SyntaxError: invalid syntax"),
        (["import sys", "", "sys.exit(3)"], ":3: SystemExit: 3"),
        (
            [
                "from runyard import Item, function",
                "",
                '@function("order/placed", max_batch=0)',
                "def pay(item: Item) -> None: ...",
            ],
            ":3: function pay: max_batch=0: give 1 to 5000",
        ),
        (
            [
                "from dagster import ConfigurableResource",
                "from runyard import Item, function",
                "",
                "class Bank(ConfigurableResource): ...",
                "",
                '@function("order/placed")',
                "def pay(item: Item, bank: Bank) -> None: ...",
            ],
            ":6: DagsterInvalidDefinitionError: resource with key 'bank' required by op 'pay' was"
            " not provided: give it as definitions(..., resources={'bank': ...})",
        ),
        (
            [
                "from runyard import EventData, event_type",
                "",
                '@event_type("hello/requested")',
                "class Other(EventData): ...",
            ],
            ":3: hello/requested has two types in the catalog: HelloRequested, Other",
        ),
    ],
    ids=["import", "syntax", "exit", "option", "resource", "event type"],
)
def test_a_problem_is_said_with_its_file_and_line(
    run: Run, shop: Path, lines: list[str], problem: str
) -> None:
    write(shop, "shop/functions/orders.py", *lines)
    code, text = said(run("check", folder=shop))
    assert (code, text.count("\n")) == (1, 1)
    assert text.startswith(f"runyard: shop/functions/orders.py{problem}")


def test_functions_of_the_same_name_are_said_with_both_places(run: Run, shop: Path) -> None:
    write(
        shop,
        "shop/functions/other.py",
        "from runyard import Item, function",
        "",
        '@function("order/placed")',
        "def hello(item: Item) -> None: ...",
    )
    text = run("check", folder=shop).stderr
    assert "two functions are called hello" in text
    assert "shop/functions/hello.py:" in text
    assert "shop/functions/other.py:3" in text


def test_problems_of_several_modules_are_said_together(run: Run, shop: Path) -> None:
    write(shop, "shop/pages.py", "import nowhere")
    write(shop, "shop/functions/orders.py", "x = = 1")
    code, text = said(run("check", folder=shop))
    assert (code, text.splitlines()) == (
        1,
        [
            "runyard: shop/pages.py:1: ModuleNotFoundError: No module named 'nowhere'",
            "runyard: shop/functions/orders.py:1: SyntaxError: invalid syntax",
        ],
    )


def test_code_without_functions_is_a_problem(run: Run, shop: Path) -> None:
    write(
        shop,
        "shop/definitions.py",
        "from dagster import Definitions",
        "",
        "defs = Definitions()",
    )
    assert said(run("check", folder=shop)) == (
        1,
        "runyard: shop.definitions has no functions: write one with @function(...), and give it to"
        " definitions(...)\n",
    )


def test_code_without_definitions_is_a_problem(run: Run, shop: Path) -> None:
    write(shop, "shop/definitions.py")
    assert said(run("check", folder=shop)) == (
        1,
        "runyard: the module shop.definitions has no Definitions: write defs = definitions(...) in"
        " it\n",
    )


def test_an_event_that_is_nearly_one_with_a_type_is_noted(run: Run, shop: Path) -> None:
    write(
        shop,
        "shop/functions/wave.py",
        "from runyard import Item, function",
        "",
        '@function("hello/requestd")',
        "def wave(item: Item) -> None: ...",
    )
    result = run("check", folder=shop)
    assert result.returncode == 0
    assert result.stderr == (
        "note: wave is started by hello/requestd, which has no type in the catalog; did you mean"
        " hello/requested?\n"
    )


def test_an_event_type_outside_of_the_catalog_is_noted(run: Run, shop: Path) -> None:
    write(
        shop,
        "shop/functions/orders.py",
        "from runyard import EventData, Item, event_type, function",
        "",
        '@event_type("order/placed")',
        "class OrderPlaced(EventData): ...",
        "",
        "@function(OrderPlaced)",
        "def pay(item: Item[OrderPlaced]) -> None: ...",
    )
    result = run("check", folder=shop)
    assert result.stdout == "The code loads: 2 functions (hello, pay), 1 event type.\n"
    assert result.stderr == (
        "note: OrderPlaced, the type of order/placed, is in shop.functions.orders and not in the"
        " catalog: such events are not checked when they are sent, and `runyard types` leaves them"
        " out; write it in shop.events, or import it there\n"
    )


def test_an_event_type_of_code_without_a_catalog_is_noted(run: Run, tmp_path: Path) -> None:
    write(
        tmp_path,
        "definitions.py",
        "from runyard import EventData, Item, definitions, event_type, function",
        "",
        '@event_type("order/placed")',
        "class OrderPlaced(EventData): ...",
        "",
        "@function(OrderPlaced)",
        "def pay(item: Item[OrderPlaced]) -> None: ...",
        "",
        "defs = definitions(pay)",
    )
    assert run("init", "--into", ".").returncode == 0
    result = run("check")
    assert result.stderr.endswith(
        'name its module, as in catalog = "my_events" in [tool.runyard]\n'
    )


def test_the_code_of_this_repository_is_fine() -> None:
    code, text = said(run_in(ROOT, "runyard", "check"))
    assert (code, text.startswith("The code loads: 10 functions")) == (0, True)
