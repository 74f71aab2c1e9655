"""The emulator against the description of the API: a DAG that is tried out with it meets the API that is documented."""

from __future__ import annotations

from typing import Any

import described
import pytest
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

KEYS = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
AS_DOCUMENTED = [
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
    "nobody",
]
API = schemathesis.openapi.from_path(str(described.PATH))
# The keys are the tests' to give.
API.config.generation.update(with_security_parameters=False)
CALLS = [call.ok() for call in API.get_all_operations()]
each_call = pytest.mark.parametrize("call", CALLS, ids=[call.label for call in CALLS])
pytestmark = pytest.mark.filterwarnings("ignore", category=HypothesisWarning)  # schemathesis' own


@pytest.fixture(scope="module")
def emulator() -> Any:
    with AirEmulator() as emulator:
        for job_id in JOBS:
            API["/jobs/{Id}/status"]["GET"].Case(path_parameters={"Id": job_id}).call(emulator.url, headers=KEYS)
        yield emulator


def test_all_of_the_calls_are_described() -> None:
    assert {call.label for call in CALLS} == {
        "GET /jobs",
        "POST /jobs",
        "GET /jobs/{Id}",
        "GET /jobs/{Id}/status",
        "GET /jobs/{Id}/errors",
        "GET /jobs/{Id}/metadata",
    }


@each_call
def test_what_is_documented_is_answered_as_documented(emulator: AirEmulator, call: Any) -> None:
    @settings(max_examples=15, phases=[Phase.generate])
    @given(call.as_strategy(), st.sampled_from(JOBS))
    def check(case: Any, job_id: str) -> None:
        if isinstance(case.body, dict) and case.body.get("Priority"):
            case.body["Priority"] = int(case.body["Priority"])  # 4.0 is a whole number, too, but nobody writes it so
        answer = case.call(emulator.url, headers=KEYS)
        case.validate_response(answer, [not_a_server_error, *AS_DOCUMENTED])
        assert answer.status_code == (404 if "Id" in (case.path_parameters or {}) else 200)

        if "Id" in (case.path_parameters or {}):
            case.path_parameters["Id"] = job_id
            answer = case.call(emulator.url, headers=KEYS)
            case.validate_response(answer, [not_a_server_error, *AS_DOCUMENTED])
            has_answer = job_id != "nobody" and ("metadata" not in call.path or job_id in JOBS[:2])
            assert answer.status_code == (200 if has_answer else 404)

    check()


# Of a path nothing is wrong that could be sent.
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_allowed_is_refused(emulator: AirEmulator, method: str) -> None:
    @settings(max_examples=40, phases=[Phase.generate])
    @given(API["/jobs"][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        answer = case.call(emulator.url, headers=KEYS)
        case.validate_response(answer, [not_a_server_error, checks.negative_data_rejection])
        if answer.status_code != 200:
            assert answer.status_code == 400
            described.judge("Error").validate(answer.json())

    check()


@each_call
@pytest.mark.parametrize(
    "keys",
    [{}, {**KEYS, "x-amz-secret-key": "another"}, *({name: key} for name, key in KEYS.items())],
    ids=["no keys", "a wrong key", "no secret key", "no access key"],
)
def test_without_the_keys_there_is_no_answer(emulator: AirEmulator, call: Any, keys: dict[str, str]) -> None:
    case = call.Case(path_parameters={"Id": JOBS[0]})
    answer = case.call(emulator.url, headers=keys)
    case.validate_response(answer, AS_DOCUMENTED)
    assert answer.status_code == 401


@each_call
def test_trouble_is_answered_as_documented(call: Any) -> None:
    case = call.Case(path_parameters={"Id": JOBS[0]})
    with AirEmulator(error_rate=1) as emulator:
        answer = case.call(emulator.url, headers=KEYS)
    case.validate_response(answer, AS_DOCUMENTED)
    assert answer.status_code == 500
