"""Hypothesis profile: the same examples on each run, and no files in the repository."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

settings.register_profile(
    "contract",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("contract")
set_hypothesis_home_dir(os.environ["AIRFLOW_HOME"])  # removed after the tests
