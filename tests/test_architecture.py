"""How the modules of the package depend on each other and on their dependencies, and what their signatures show."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import airflow_wasabi_jobs
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor
from airflow_wasabi_jobs.triggers import WasabiBatchTrigger, WasabiJobsFinishedTrigger, WasabiJobTrigger

ROOT = Path(airflow_wasabi_jobs.__file__).parent
PACKAGE = airflow_wasabi_jobs.__name__
# Each part may import the parts that follow it.
LAYERS = [
    "demo",
    "operators",
    "sensors",
    "lineage",
    "submitting",
    "triggers",
    "watching",
    "waiting",
    "polling",
    "links",
    "hooks",
    "connection_form",
    "results",
    "exceptions",
    "metrics",
    "emulator",
    "api",
    "get_provider_info",
    "log",
]
# Airflow has no public way to limit the exponent of its backoff.
OVERRIDDEN_PRIVATE_NAMES = {"WasabiBaseSensor._get_next_poke_interval"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported_modules(path: Path) -> Iterator[str]:
    """All modules of the package that a file imports, also in functions and for type checking only."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names):
                # Either a module of a package, or a name in a module.
                submodules = [f"{module}.{alias.name}" for alias in names if f"{module}.{alias.name}" in MODULES]
                imported = [*submodules, *([module] if len(submodules) < len(names) else [])]
            case _:
                continue
        yield from (name for name in imported if name in MODULES)


def part_of(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.").partition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {PACKAGE}))
def test_direction_of_imports(module: str) -> None:
    layer = LAYERS.index(part_of(module))
    for imported in set(imported_modules(MODULES[module])) - {PACKAGE}:
        assert LAYERS.index(part_of(imported)) >= layer, f"{module} imports {imported}"


def test_emulator_imports_only_the_api() -> None:
    modules = [module for module in MODULES if part_of(module) == "emulator"]
    assert {part_of(name) for module in modules for name in imported_modules(MODULES[module])} == {"emulator", "api"}


def test_no_import_cycle() -> None:
    graph = {module: set(imported_modules(path)) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_api_imports_nothing_from_airflow() -> None:
    for module, path in MODULES.items():
        if part_of(module) == "api":
            assert not re.search(r"^\s*(from|import) airflow\b", path.read_text(), re.MULTILINE), module


# Where a triggerer runs coroutines.
IN_TRIGGERER = ("triggers", "watching", "polling", "waiting.unfinished_jobs")


def blocking_log_calls(tree: ast.AST) -> Iterator[str]:
    """Return the calls in coroutines that write a line to the log, except in a thread."""
    for coroutine in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
        for call in (node for node in ast.walk(coroutine) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name.startswith("LOG.") or re.match(r"status_log\.record_", name):
                yield f"{coroutine.name}: {name}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.removeprefix(f"{PACKAGE}.").startswith(IN_TRIGGERER)]
)
def test_coroutines_of_a_triggerer_log_in_a_thread(module: str) -> None:
    assert list(blocking_log_calls(ast.parse(MODULES[module].read_text()))) == []


def test_blocking_log_call_is_found() -> None:
    code = "async def run():\n    await asyncio.to_thread(LOG.info, 'a')\n    LOG.info('a')\n"

    assert list(blocking_log_calls(ast.parse(code))) == ["run: LOG.info"]


def test_no_private_name_of_a_dependency_is_overridden() -> None:
    overridden = set()
    for info in pkgutil.walk_packages([str(ROOT)], f"{PACKAGE}."):
        if info.name.endswith(("__main__", "wasabi_demo")):
            continue
        if info.name.endswith(".shared_stream") and not find_spec("airflow.triggers.shared_stream"):
            continue  # for Airflow 3.3 and later
        for name, cls in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            bases = [base for base in cls.__mro__[1:] if not base.__module__.startswith(PACKAGE)]
            private_names = [
                attribute
                for attribute, value in vars(cls).items()
                if re.match(r"_(?!_|abc_)", attribute) and callable(value)
            ]
            if cls.__module__.startswith(PACKAGE) and not issubclass(cls, Enum):
                overridden |= {
                    f"{name}.{attribute}"
                    for attribute in private_names
                    if any(attribute in vars(base) and base is not object for base in bases)
                }
    assert overridden <= OVERRIDDEN_PRIVATE_NAMES


@pytest.mark.parametrize(
    "cls",
    [
        WasabiJobsHook,
        WasabiJobSensor,
        WasabiBatchSensor,
        WasabiSubmitJobOperator,
        WasabiJobTrigger,
        WasabiBatchTrigger,
        WasabiJobsFinishedTrigger,
        AirEmulator,
        JobsClient,
        AsyncJobsClient,
    ],
)
def test_docstring_describes_each_parameter_of_the_signature(cls: Any) -> None:
    parameters = set(inspect.signature(cls).parameters)
    if cls is WasabiJobsHook:
        parameters -= {"kwargs"}  # of BaseHook, which has none that a DAG author needs

    assert set(re.findall(r"^\s*:param (\w+):", inspect.getdoc(cls) or "", re.MULTILINE)) == parameters


@pytest.mark.parametrize("cls", [WasabiJobSensor, WasabiBatchSensor, WasabiSubmitJobOperator])
def test_signature_shows_the_parameters_that_all_tasks_share(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters

    assert parameters["wasabi_conn_id"].default == "wasabi_default"
    assert parameters["deferrable"].default is False
