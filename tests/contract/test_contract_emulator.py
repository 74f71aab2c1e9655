"""The emulator against the OpenAPI description of the API."""

from __future__ import annotations

import inspect
from typing import Any
from urllib.parse import unquote

import api_description
import pytest
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.models import Destination, Source, Submission
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY, Behaviour, create_application

KEYS = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
CONFORMANCE_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
JOBS = [
    "completes-after-0-seconds",
    "completes-with-3-errors-after-0-seconds",
    "fails-after-0-seconds",
    "cancels-after-0-seconds",
    "completes-after-999999999-seconds",
    "unknown",
]
API = schemathesis.openapi.from_path(str(api_description.PATH))
# The tests send the keys themselves.
API.config.generation.update(with_security_parameters=False)
ENDPOINTS = [endpoint.ok() for endpoint in API.get_all_operations()]
every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=[endpoint.label for endpoint in ENDPOINTS])
pytestmark = pytest.mark.filterwarnings("ignore", category=HypothesisWarning)  # raised by schemathesis itself


@pytest.fixture(scope="module")
def emulator() -> Any:
    with AirEmulator() as emulator:
        for job_id in JOBS:
            API["/jobs/{Id}/status"]["GET"].Case(path_parameters={"Id": job_id}).call(emulator.url, headers=KEYS)
        yield emulator


# By the name of the parameter. The id is that of the description, so that paths are equal.
ARGUMENTS = {
    "job_id": "{Id}",
    "batch": "a batch",
    "submission": Submission(
        name="a job",
        source=Source(bucket="media", object_key="a.mp4"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"ocr": ""},
    ),
}


def client_operations() -> dict[str, str]:
    """Return the operation of each function of the endpoints that makes a request, such as ``GET /jobs/{Id}``."""
    functions = [getattr(endpoints, name) for name in endpoints.__all__]
    operations = {}
    for function in filter(inspect.isfunction, functions):
        signature = inspect.signature(function)
        if signature.return_annotation.startswith("Request["):
            request = function(**{name: ARGUMENTS[name] for name in signature.parameters if name in ARGUMENTS})
            operations[function.__name__] = f"{request.method} {unquote(request.path.partition('?')[0])}"
    return operations


def emulator_operations() -> set[str]:
    """Return the operations that the emulator has a route for."""
    routes = create_application(Behaviour()).router.routes()
    # aiohttp adds a HEAD to each GET.
    return {
        f"{route.method} {route.resource.canonical.replace('{job_id}', '{Id}')}"
        for route in routes
        if route.resource and route.method != "HEAD"
    }


def test_client_emulator_and_description_have_the_same_operations() -> None:
    described = {endpoint.label for endpoint in ENDPOINTS}

    assert "GET /jobs/{Id}/status" in described
    assert set(client_operations().values()) == described
    assert emulator_operations() == described


def test_all_lists_are_one_operation() -> None:
    operations = client_operations()

    assert {operations[name] for name in ("list_jobs", "list_job_summaries", "list_batch")} == {"GET /jobs"}
    others = [operation for name, operation in operations.items() if not name.startswith("list_")]
    assert len(set(others)) == len(others)


@every_endpoint
def test_valid_request_gets_a_documented_response(emulator: AirEmulator, endpoint: Any) -> None:
    @settings(max_examples=15, phases=[Phase.generate])
    @given(endpoint.as_strategy(), st.sampled_from(JOBS))
    def check(case: Any, job_id: str) -> None:
        if isinstance(case.body, dict) and case.body.get("Priority"):
            case.body["Priority"] = int(case.body["Priority"])  # 4.0 is a valid integer, but clients do not send it
        response = case.call(emulator.url, headers=KEYS)
        case.validate_response(response, [not_a_server_error, *CONFORMANCE_CHECKS])
        assert response.status_code == (404 if "Id" in (case.path_parameters or {}) else 200)

        if "Id" in (case.path_parameters or {}):
            case.path_parameters["Id"] = job_id
            response = case.call(emulator.url, headers=KEYS)
            case.validate_response(response, [not_a_server_error, *CONFORMANCE_CHECKS])
            exists = job_id != "unknown" and ("metadata" not in endpoint.path or job_id in JOBS[:2])
            assert response.status_code == (200 if exists else 404)

    check()


# No invalid path can be sent.
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_invalid_request_is_rejected(emulator: AirEmulator, method: str) -> None:
    @settings(max_examples=40, phases=[Phase.generate])
    @given(API["/jobs"][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        response = case.call(emulator.url, headers=KEYS)
        case.validate_response(response, [not_a_server_error, checks.negative_data_rejection])
        if response.status_code != 200:
            assert response.status_code == 400
            api_description.validator("Error").validate(response.json())

    check()


@every_endpoint
@pytest.mark.parametrize(
    "keys",
    [{}, {**KEYS, "x-amz-secret-key": "another"}, *({name: key} for name, key in KEYS.items())],
    ids=["no keys", "wrong key", "no secret key", "no access key"],
)
def test_401_without_the_keys(emulator: AirEmulator, endpoint: Any, keys: dict[str, str]) -> None:
    case = endpoint.Case(path_parameters={"Id": JOBS[0]})
    response = case.call(emulator.url, headers=keys)
    case.validate_response(response, CONFORMANCE_CHECKS)
    assert response.status_code == 401


@every_endpoint
def test_500_is_a_documented_response(endpoint: Any) -> None:
    case = endpoint.Case(path_parameters={"Id": JOBS[0]})
    with AirEmulator(error_rate=1) as emulator:
        response = case.call(emulator.url, headers=KEYS)
    case.validate_response(response, CONFORMANCE_CHECKS)
    assert response.status_code == 500
