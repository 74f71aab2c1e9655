"""Callbacks that write each call to a file, as one line of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def record(kind: str) -> Callable[[Any], None]:
    def callback(context: Any) -> None:
        ti, error = context["ti"], context.get("exception")
        call = {
            "run": ti.run_id,
            "task": ti.task_id,
            "map_index": ti.map_index,
            "kind": kind,
            "error": error and type(error).__name__,
        }
        with Path(os.environ["E2E_CALLBACKS"]).open("a") as file:
            file.write(json.dumps(call) + "\n")

    return callback
