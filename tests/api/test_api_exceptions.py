"""The tree of API errors, and how errors are serialized."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.api.exceptions import WasabiApiError, deserialize_error, serialize_error

TREE = {
    "WasabiApiError": ("Exception", False),
    "ConnectionConfigError": ("WasabiApiError", False),
    "ApiStatusError": ("WasabiApiError", False),
    "RedirectError": ("ApiStatusError", False),
    "BadRequestError": ("ApiStatusError", False),
    "AuthenticationError": ("ApiStatusError", False),
    "PermissionDeniedError": ("ApiStatusError", False),
    "NotFoundError": ("ApiStatusError", False),
    "RateLimitError": ("ApiStatusError", True),
    "ServerError": ("ApiStatusError", True),
    "InvalidResponseError": ("WasabiApiError", False),
    "ApiConnectionError": ("WasabiApiError", True),
    "ApiTimeoutError": ("ApiConnectionError", True),
    "HostNotFoundError": ("ApiConnectionError", False),
    "TlsError": ("ApiConnectionError", False),
}
DETAILS = [
    {},
    {"status_code": 404, "error_code": "NOT_FOUND"},
    {"status_code": 503, "error_code": "BUSY", "text": "Später wieder\n", "retry_after": 1.5},
]

every_error_class = pytest.mark.parametrize("error_class", [getattr(exceptions, name) for name in TREE], ids=list(TREE))


def test_exception_tree():
    tree = {
        name: (error_class.__base__.__name__, error_class.is_transient)
        for name, error_class in vars(exceptions).items()
        if isinstance(error_class, type) and issubclass(error_class, Exception)
    }
    assert tree == TREE


@every_error_class
def test_str_is_the_message(error_class):
    assert str(error_class("What happened.", status_code=500, text="secondary")) == "What happened."


@every_error_class
@pytest.mark.parametrize("details", DETAILS)
def test_event_round_trip(error_class, details):
    error = error_class("What happened. What to do.", **details)

    event = json.loads(json.dumps(serialize_error(error)))

    assert_same(deserialize_error(event), error)


@every_error_class
@pytest.mark.parametrize("details", DETAILS)
def test_pickle_round_trip(error_class, details):
    error = error_class("What happened. What to do.", **details)
    assert_same(pickle.loads(pickle.dumps(error)), error)


def test_from_event_does_not_change_the_event():
    event = serialize_error(exceptions.NotFoundError("What happened.", status_code=404))
    before = dict(event)
    deserialize_error(event)
    assert event == before


def test_event_of_an_unknown_error_class_becomes_the_base_class():
    error = deserialize_error(
        {**serialize_error(exceptions.NotFoundError("What happened.", status_code=404)), "type": "FromTheFuture"}
    )
    assert_same(error, WasabiApiError("What happened.", status_code=404))


@every_error_class
def test_api_errors_are_no_airflow_exceptions(error_class):
    from airflow.exceptions import AirflowException
    from airflow.providers.common.compat.sdk import AirflowException as AirflowExceptionOfTheSdk

    assert not issubclass(error_class, AirflowException | AirflowExceptionOfTheSdk)


def test_api_package_does_not_import_airflow():
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
