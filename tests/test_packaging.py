"""The declared dependencies are the imported ones."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "airflow_wasabi_jobs"
# Used for the connection form by Airflow before 3.2, which installs them itself.
CONNECTION_FORM_MODULES = {"flask_appbuilder", "flask_babel", "wtforms"}
# Of the extra of the same name. OpenLineage itself calls the functions that import them.
OPENLINEAGE_MODULES = {"openlineage"}
OPENLINEAGE_PROVIDER = "airflow.providers.openlineage."


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


def test_imported_packages_are_the_declared_dependencies() -> None:
    modules = {name.partition(".")[0] for name in imported()} - set(sys.stdlib_module_names)
    distributions = packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    used = {
        canonicalize_name(distribution)
        for module in modules - {"airflow", "airflow_wasabi_jobs"} - CONNECTION_FORM_MODULES - OPENLINEAGE_MODULES
        for distribution in distributions[module]
    }

    assert used | {"apache-airflow", "apache-airflow-providers-common-compat"} == names


def test_only_the_declared_airflow_provider_is_imported() -> None:
    providers = {name for name in imported() if name.startswith("airflow.providers")}

    assert providers
    assert all(name.startswith(("airflow.providers.common.compat.", OPENLINEAGE_PROVIDER)) for name in providers)


def test_lowest_requirements_are_the_declared_lower_bounds() -> None:
    lines = (ROOT / "requirements" / "airflow-lowest.in").read_text().split()

    assert versions(map(Requirement, lines), "==") == versions(declared(), ">=")


def test_the_pinned_sets_name_no_registry() -> None:
    sets = list((ROOT / "requirements").glob("*.txt"))

    assert sets
    assert [path.name for path in sets if "://" in path.read_text()] == []


def test_the_sdist_holds_what_its_tests_and_its_documentation_need(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}

    assert files >= {"LICENSE", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".ci/run"}
    assert files >= {"docs/conf.py", "docs/index.md", "tests/conftest.py", "tests/test_packaging.py"}
    assert files >= {file for folder in ("example_dags", "requirements") for file in files_of(folder)}
    assert not [name for name in files if "_build" in name or "__pycache__" in name]


def test_the_wheel_is_a_provider_with_the_emulator_and_the_types(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("airflow_wasabi_jobs-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in files if name.endswith("/entry_points.txt"))

    sources = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    assert {name for name in files if name.startswith("airflow_wasabi_jobs/")} == sources | {
        "airflow_wasabi_jobs/py.typed"
    }
    assert "[apache_airflow_provider]" in entry_points
    assert "wasabi-air-emulator = " in entry_points


def files_of(folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()]


def versions(requirements: Iterable[Requirement], operator: str) -> dict[str, Version]:
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier).removeprefix(operator))
        for requirement in requirements
    }
