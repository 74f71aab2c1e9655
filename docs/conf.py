"""The configuration of the documentation. `make docs` builds it; nothing is fetched while it builds."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parent.parent

# autodoc imports the package, and the package imports Airflow. Airflow writes its configuration to AIRFLOW_HOME.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-docs-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
with contextlib.redirect_stdout(None):
    importlib.import_module("airflow.settings")

project = "airflow-wasabi-jobs"
author = "The authors of airflow-wasabi-jobs"
project_copyright = "The authors of airflow-wasabi-jobs, Apache License 2.0"
version = release = re.findall(
    r'^__version__ = "(.+)"', (ROOT / "airflow_wasabi_jobs" / "__init__.py").read_text(), re.MULTILINE
)[0]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"airflow-wasabi-jobs {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88

# References to Python and to Airflow are not checked: that would need their inventories, and a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(airflow|airflow\..*)"),
    (r"py:.*", r"(asyncio|collections|contextlib|datetime|enum|msgspec|types|typing)\..*"),
    (r"py:.*", r"(str|int|float|bool|bytes|dict|list|tuple|set|object|None|type|timedelta|ValueError|Exception)"),
    (
        r"py:.*",
        r"(Any|Literal|Mapping|Sequence|Iterable|Iterator|AsyncIterator|Callable|ClassVar|Self|Context|XComArg)",
    ),
    # Internal classes that appear in signatures and base classes. The reference does not describe them.
    (r"py:.*", r"airflow_wasabi_jobs\.(api\.(client|endpoints|settings)|polling|waiting)\b.*"),
]


def resolve_short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:
    """Resolve a name of this package that is written without its module, or with the module that defines it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not re.fullmatch(r"(airflow_wasabi_jobs\..*\.)?\w+", target):
        return None
    domain = env.get_domain("py")
    name = target.rpartition(".")[2]
    found = [full for full, *_ in domain.get_objects() if full.rpartition(".")[2] == name]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)


def hide_signature(_app: Sphinx, what: str, name: str, *_: object) -> tuple[None, None] | None:
    """Show the arguments of an exception once, at the base class, and leave out those with validation rules."""
    is_subclass = what == "exception" and not name.endswith(".WasabiApiError")
    return (None, None) if is_subclass or name.endswith(".Behaviour") else None


def setup(app: Sphinx) -> None:
    """Register what the configuration adds to Sphinx."""
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("missing-reference", resolve_short_name)
