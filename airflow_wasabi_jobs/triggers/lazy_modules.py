"""What a trigger imports when it runs, and not while a DAG file is parsed."""

from __future__ import annotations

import asyncio
import importlib
import sys

from airflow_wasabi_jobs import metrics

_LAZY_MODULES = {"airflow_wasabi_jobs.hooks", "airflow_wasabi_jobs.polling", "airflow_wasabi_jobs.watching.watcher"}


async def import_lazy_modules() -> None:
    """Do in a thread what takes longer than the event loop may be blocked."""
    if not sys.modules.keys() >= _LAZY_MODULES:
        for module in _LAZY_MODULES:
            await asyncio.to_thread(importlib.import_module, module)
        await asyncio.to_thread(metrics.find_stats)
