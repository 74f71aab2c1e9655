"""What the documentation says about the package is so. That its own links hold, `make docs` checks."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from airflow_wasabi_jobs import exceptions, hooks, links, operators, sensors, triggers
from airflow_wasabi_jobs.api import batches, models

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TOP_LEVEL = sorted(ROOT.glob("*.md"))


@pytest.mark.parametrize("path", TOP_LEVEL, ids=lambda path: path.name)
def test_relative_links_of_the_top_level_files_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text())

    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_example_is_in_a_guide() -> None:
    guides = "".join(path.read_text() for path in PAGES)

    examples = [path.name for path in (ROOT / "example_dags").glob("*.py")]
    assert examples
    assert [name for name in examples if f"example_dags/{name}" not in guides] == []


@pytest.mark.parametrize("module", [hooks, links, operators, sensors, triggers], ids=lambda module: module.__name__)
def test_every_public_class_is_in_the_reference(module: ModuleType) -> None:
    reference = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))

    name = module.__name__
    public = [
        cls for cls in vars(module).values() if isinstance(cls, type) and f"{cls.__module__}.".startswith(f"{name}.")
    ]
    documented = [cls.__name__ for cls in public if not cls.__name__.startswith("_")]
    assert documented
    assert [cls for cls in documented if f".. autoclass:: {name}.{cls}\n" not in reference] == []


# What forms and triggers call, and not the author of a DAG.
INTERNAL_HOOK_METHODS = {"aread_settings", "read_settings", "get_connection_form_widgets", "get_ui_field_behaviour"}
HOOK_METHODS = sorted(
    name
    for name, member in vars(hooks.WasabiJobsHook).items()
    if callable(getattr(member, "__func__", member)) and not name.startswith("_") and name not in INTERNAL_HOOK_METHODS
)


def test_every_method_of_the_hook_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "hooks.md").read_text()
    (members,) = re.findall(r":members:(.+?)\n```", page, re.DOTALL)

    assert "get_job_status" in HOOK_METHODS
    assert sorted(re.findall(r"\w+", members)) == HOOK_METHODS


def test_the_readme_names_the_methods_of_the_hook_that_send_requests() -> None:
    (row,) = re.findall(r"^\| Use the API .*$", (ROOT / "README.md").read_text(), re.MULTILINE)

    # The others are a variant of get_job_status, the client, the Test button, and one that sends nothing.
    expected = set(HOOK_METHODS) - {"aget_job_status", "get_conn", "test_connection", "build_submission"}
    assert set(re.findall(r"`(\w+)`", row)) - {"WasabiJobsHook"} == expected


def test_every_model_that_the_hook_returns_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "models.md").read_text()
    public = {
        name
        for module in (models, batches)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and cls.__module__ == module.__name__
    }

    assert "JobReport" in public
    # Only polls use them.
    internal = {"BatchCounter", "JobSummary"}
    assert [name for name in sorted(public - internal) if not re.search(rf"\b{name}\b", page)] == []


def test_every_exception_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "exceptions.md").read_text()

    assert re.findall(r"autoexception:: airflow_wasabi_jobs\.exceptions\.(\w+)", page)
    assert [name for name in exceptions.__all__ if f".exceptions.{name}\n" not in page] == []


def test_exceptions_in_the_guide_exist() -> None:
    guide = (DOCS / "guides" / "errors.md").read_text()
    names = set(re.findall(r"\b(?:[A-Z][a-z]+)+(?:Error|Failed|Cancelled)\b", guide))

    assert names >= {"AuthenticationError", "WasabiJobFailed"}
    assert [name for name in names if name not in {"ValueError", "TypeError"} and not hasattr(exceptions, name)] == []


def test_every_extra_key_is_in_the_reference() -> None:
    from airflow_wasabi_jobs.api.settings import Options

    page = (DOCS / "reference" / "connection-fields.md").read_text()

    assert [key for key in Options.__struct_fields__ if f"| `{key}` |" not in page] == []


def test_every_option_of_the_emulator_is_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    from airflow_wasabi_jobs.emulator.cli import main

    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}

    page = (DOCS / "reference" / "emulator.md").read_text()
    assert set(re.findall(r"`(--[a-z-]+)`", page)) == options


def test_every_metric_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "airflow_wasabi_jobs").rglob("*.py"))
    counters = set(re.findall(r'metrics\.count\("(\w+)"', source))
    outcomes = set(re.findall(r'return "(\w+)"', (ROOT / "airflow_wasabi_jobs/api/client/observer.py").read_text()))

    assert "polls" in counters
    assert "rate_limited" in outcomes
    expected = counters | {f"requests.{outcome}" for outcome in {*outcomes, "succeeded"}}
    assert [name for name in sorted(expected) if f"| `wasabi_jobs.{name}` | counter |" not in page] == []
