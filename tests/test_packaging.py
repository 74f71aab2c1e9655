"""What the package depends on is what it says it depends on."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "airflow_wasabi_jobs"
# What Airflow before 3.2 makes its connection form of, and brings itself: imported where it asks for the form.
OF_THE_FORM = {"flask_appbuilder", "flask_babel", "wtforms"}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def imported() -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                yield str(node.module)


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    tops = {name.partition(".")[0] for name in imported()} - set(sys.stdlib_module_names)
    distributions = packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    needed = {
        canonicalize_name(distribution)
        for top in tops - {"airflow", "airflow_wasabi_jobs"} - OF_THE_FORM
        for distribution in distributions[top]
    }

    assert needed | {"apache-airflow", "apache-airflow-providers-common-compat"} == names


def test_of_the_providers_of_airflow_only_the_declared_one_is_imported() -> None:
    providers = {name for name in imported() if name.startswith("airflow.providers")}

    assert providers
    assert all(f"{name}.".startswith("airflow.providers.common.compat.") for name in providers)


def test_there_is_a_set_of_exactly_the_lowest_versions() -> None:
    lines = (ROOT / "requirements" / "airflow-lowest.in").read_text().split()

    assert versions(map(Requirement, lines), "==") == versions(declared(), ">=")


def versions(requirements: Iterable[Requirement], operator: str) -> dict[str, Version]:
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier).removeprefix(operator))
        for requirement in requirements
    }
