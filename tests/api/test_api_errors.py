"""The tree of what can go wrong, and how its errors travel."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.api.errors import AirError, from_event, to_event

TREE = {
    "AirError": ("Exception", False),
    "InvalidSettings": ("AirError", False),
    "Refusal": ("AirError", False),
    "Redirected": ("Refusal", False),
    "Unauthorized": ("Refusal", False),
    "Forbidden": ("Refusal", False),
    "NotFound": ("Refusal", False),
    "TooManyRequests": ("Refusal", True),
    "ServerTrouble": ("Refusal", True),
    "UnexpectedAnswer": ("AirError", False),
    "NoAnswer": ("AirError", False),
    "PassingNoAnswer": ("NoAnswer", True),
}
DETAILS = [
    {},
    {"status_code": 404, "error_code": "NOT_FOUND"},
    {"status_code": 503, "error_code": "BUSY", "text": "Später wieder\n", "retry_after": 1.5},
]

every_kind = pytest.mark.parametrize("kind", [getattr(errors, name) for name in TREE], ids=list(TREE))


def test_the_tree():
    found = {
        name: (kind.__base__.__name__, kind.is_passing)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert found == TREE


@every_kind
def test_an_error_shows_its_message(kind):
    assert str(kind("What happened.", status_code=500, text="secondary")) == "What happened."


@every_kind
@pytest.mark.parametrize("details", DETAILS)
def test_an_error_comes_out_of_an_event_as_itself(kind, details):
    error = kind("What happened. What to do.", **details)

    event = json.loads(json.dumps(to_event(error)))

    assert_same(from_event(event), error)


@every_kind
@pytest.mark.parametrize("details", DETAILS)
def test_an_error_comes_out_of_a_pickle_as_itself(kind, details):
    error = kind("What happened. What to do.", **details)
    assert_same(pickle.loads(pickle.dumps(error)), error)


def test_an_event_is_left_as_it_is():
    event = to_event(errors.NotFound("What happened.", status_code=404))
    before = dict(event)
    from_event(event)
    assert event == before


def test_an_event_of_a_kind_that_is_not_known_here_is_still_an_error_of_ours():
    error = from_event({**to_event(errors.NotFound("What happened.", status_code=404)), "type": "FromTheFuture"})
    assert_same(error, AirError("What happened.", status_code=404))


@every_kind
def test_airflow_does_not_take_an_error_for_an_answer(kind):
    from airflow.exceptions import AirflowException
    from airflow.providers.common.compat.sdk import AirflowException as AirflowExceptionOfTheSdk

    assert not issubclass(kind, AirflowException | AirflowExceptionOfTheSdk)


def test_the_api_knows_nothing_of_airflow():
    script = (
        "import sys, airflow_wasabi_jobs.api.client, airflow_wasabi_jobs.api.ids\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'airflow'])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def assert_same(error, expected):
    assert type(error) is type(expected)
    assert str(error) == str(expected)
    assert vars(error) == vars(expected)
