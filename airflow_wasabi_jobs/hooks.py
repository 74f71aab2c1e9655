"""An Airflow connection becomes a client of the AiR Jobs API."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_wasabi_jobs import get_provider_info
from airflow_wasabi_jobs.api import batches, calls, errors, submissions
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.ids import checked_id
from airflow_wasabi_jobs.api.models import Destination, JobStatus, Source, Submission
from airflow_wasabi_jobs.api.settings import Settings, check

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_wasabi_jobs.api.batches import BatchReport
    from airflow_wasabi_jobs.api.models import Job, JobErrors, JobMetadata, JobReport

T = TypeVar("T")


class WasabiJobsHook(BaseHook):
    """
    Asks the Wasabi AiR Jobs API with the keys of an Airflow connection.

    The connection is of type ``wasabi``. Its ``host`` is the base URL that Wasabi gave you, its ``login``
    the access key and its ``password`` the secret key of a Wasabi user with the policy ``WasabiViewAiR``.
    Its ``extra`` may hold ``connect_timeout``, ``read_timeout`` (seconds), ``retries``, ``verify``,
    ``allow_http`` and ``proxy``.

    The connection is read when it is first needed and once more after a 401, so keys that were changed
    meanwhile are picked up.

    :param wasabi_conn_id: the connection's id.
    """

    conn_name_attr = "wasabi_conn_id"
    default_conn_name = "wasabi_default"
    conn_type = "wasabi"
    hook_name = "Wasabi AiR"

    def __init__(self, wasabi_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wasabi_conn_id = wasabi_conn_id
        self._client: JobsClient | None = None
        self._async_settings: Settings | None = None

    def get_conn(self) -> JobsClient:
        """
        Return the client for this connection; its ``send`` takes the calls of :mod:`airflow_wasabi_jobs.api.calls`.

        :raises InvalidSettings: if there is no such connection, or something in it can't be used.
        """
        if self._client is None:
            self._client = JobsClient(self._read_settings())
        return self._client

    def get_job_status(self, job_id: str) -> JobReport:
        """
        Ask once where a job stands.

        :param job_id: the job's id.
        :return: the report: ``job_id``, ``status`` and ``error_count``.
        :raises ValueError: if it can't be the id of a job.
        :raises AirError: if no report was to be had. :mod:`airflow_wasabi_jobs.api.errors` tells the
            kinds, and which of them may pass.
        """
        return self._send(calls.job_status(_checked(job_id)))

    async def aget_job_status(self, job_id: str) -> JobReport:
        """
        Ask once where a job stands, without blocking the event loop, not even for the connection.

        :param job_id: the job's id.
        :return: the report: ``job_id``, ``status`` and ``error_count``.
        :raises ValueError: if it can't be the id of a job.
        :raises AirError: as :meth:`get_job_status` does.
        """
        call = calls.job_status(_checked(job_id))
        if self._async_settings is None:
            self._async_settings = await self.aread_settings()
        settings = self._async_settings
        try:
            return await _asend(settings, call)
        except errors.Unauthorized:
            self._async_settings = await self.aread_settings()
            if self._async_settings == settings:
                raise
        self._tell_new_keys()
        return await _asend(self._async_settings, call)

    def get_job(self, job_id: str) -> Job:
        """
        Ask for a job with what it was submitted with.

        :param job_id: the job's id.
        :return: the job. Any field but ``job_id`` and ``status`` may be absent, and is None then.
        :raises ValueError: if it can't be the id of a job.
        :raises AirError: as :meth:`get_job_status` does.
        """
        return self._send(calls.job(_checked(job_id)))

    def get_job_errors(self, job_id: str) -> JobErrors:
        """
        Ask why a job failed.

        :param job_id: the job's id.
        :return: ``error_code``, if the API names one, beside what the report says.
        :raises ValueError: if it can't be the id of a job.
        :raises AirError: as :meth:`get_job_status` does.
        """
        return self._send(calls.job_errors(_checked(job_id)))

    def get_job_metadata(self, job_id: str) -> JobMetadata:
        """
        Ask where the result of a completed job lies.

        :param job_id: the job's id.
        :return: ``path``, the URL of the metadata file, and its ``destination``.
        :raises ValueError: if it can't be the id of a job.
        :raises NotFound: if there is no such job, or it is not completed. Right after its completion the
            API may say that, too.
        :raises AirError: as :meth:`get_job_status` does.
        """
        return self._send(calls.job_metadata(_checked(job_id)))

    def list_jobs(
        self,
        *,
        batch: str | None = None,
        name: str | None = None,
        status: JobStatus | str | None = None,
        newest_first: bool = False,
    ) -> Iterator[Job]:
        """
        List the account's jobs, each once. A page of 100 is asked for when it is needed.

        The list is no snapshot: a job that begins, or changes its status, while it is read may be missing. The
        filters are the API's, and nothing says that they match exactly.

        :param batch: only jobs of this batch. Default: all.
        :param name: only jobs of this name. Default: all.
        :param status: only jobs of this status. Default: all.
        :param newest_first: whether the newest comes first. Default: the oldest does.
        :raises ValueError: if it can't be a status.
        :raises AirError: as :meth:`get_job_status` does.
        """
        known = None if status is None else JobStatus(status)
        query = {"batch": batch, "name": name, "status": known, "newest_first": newest_first}
        return self._listed(query)

    def get_batch_report(
        self,
        batch: str,
        *,
        expected_jobs: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = True,
    ) -> BatchReport:
        """
        Look once at where a batch of jobs stands.

        :param batch: the name of the batch. It is compared exactly.
        :param expected_jobs: how many jobs it has at least before it can be over. Default: one.
        :param max_failures: how many jobs may fail or be cancelled.
        :param fail_fast: whether it is over as soon as more than that did.
        :return: the report: ``is_over``, ``counts`` by status, ``failures`` and ``more_failures``.
        :raises AirError: as :meth:`get_job_status` does.
        """
        asking = batches.look(batch, expected_jobs=expected_jobs, max_failures=max_failures, fail_fast=fail_fast)
        call = next(asking)
        while True:
            try:
                call = asking.send(self._send(call))
            except StopIteration as end:
                report: BatchReport = end.value
                return report

    def submit_job(
        self,
        *,
        name: str,
        source: Mapping[str, str],
        destination: Mapping[str, str],
        services: Sequence[str] | Mapping[str, Any],
        priority: int | None = None,
        batch: str | None = None,
        source_conn_id: str | None = None,
    ) -> Job:
        """
        Submit a job, once. The keys of the connection need the IAM policy ``WasabiManageAiR``.

        Nothing is sent twice, for two submissions are two jobs. After an error it may be unknown whether the job
        was made: look for its name with :meth:`list_jobs`.

        :param name: the job's name, 1 to 256 characters.
        :param source: where the media file lies: ``bucket``, ``object_key``, and maybe ``region``, ``endpoint``.
        :param destination: where the result goes: ``bucket`` and ``region``.
        :param services: what analyses the file: a list of ``ocr``, ``s2t``, ``nld``, ``audiotag``, ``face`` and
            ``logo``, or a dict of them with ``""`` or ``{"config": {…}}``.
        :param priority: 1 to 10. Default: the API's.
        :param batch: the batch that the job belongs to, up to 256 characters. Default: none.
        :param source_conn_id: the connection with the keys of a source outside Wasabi: the access key is its
            ``login``, the secret key its ``password``. Default: the source is in Wasabi.
        :return: the job, with its id.
        :raises ValueError: if a field can't be sent.
        :raises AirError: as :meth:`get_job_status` does.
        """
        given = submissions.checked("source", source)
        access_key = secret_key = None
        if source_conn_id is not None:
            access_key, secret_key = self._read_source_keys(source_conn_id)
        submission = Submission(
            name=submissions.checked("name", name),
            source=Source(**given),
            destination=Destination(**submissions.checked("destination", destination)),
            services=submissions.checked("services", services),
            priority=submissions.checked("priority", priority),
            batch=submissions.checked("batch", batch),
            source_access_key=access_key,
            source_secret_key=secret_key,
        )
        return self._send(calls.submit_job(submission))

    async def aread_settings(self) -> Settings:
        """
        Read the connection, without blocking the event loop.

        :raises InvalidSettings: if there is no such connection, or something in it can't be used.
        """
        try:
            return self._settings_of(await get_async_connection(self.wasabi_conn_id))
        except AirflowNotFoundException as error:
            raise self._not_found() from error

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one job of the account's list, and say in plain words what is wrong if that does not work."""
        try:
            # Airflow gives the connection under test a random id, which means nothing to who reads the message.
            JobsClient(self._read_settings("this connection")).send(calls.list_states(page_size=1))
        except errors.AirError as error:
            return False, str(error)
        return True, "The AiR Jobs API answered and accepted the keys."

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what the connection form hides and renames, for Airflow before 3.2."""
        behaviour = _card()["ui-field-behaviour"]
        return {
            "hidden_fields": behaviour["hidden-fields"],
            "relabeling": behaviour["relabeling"],
            "placeholders": behaviour["placeholders"],
        }

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form fields of the extras, for Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import BooleanField, IntegerField, PasswordField, StringField
        from wtforms.validators import Optional

        def field(label: str, description: str, schema: dict[str, Any]) -> Any:
            about = {"label": lazy_gettext(label), "description": description}
            match schema["type"][0], schema.get("format"):
                case "boolean", _:
                    return BooleanField(**about, default=schema["default"])
                case "integer", _:
                    return IntegerField(**about, validators=[Optional()], widget=BS3TextFieldWidget())
                case _, "password":
                    return PasswordField(**about, widget=BS3PasswordFieldWidget())
                case _:
                    # A number, too: there is no field for one with a fraction, and its text is read as well.
                    return StringField(**about, widget=BS3TextFieldWidget())

        return {name: field(**about) for name, about in _card()["conn-fields"].items()}

    def _send(self, call: calls.Call[T]) -> T:
        client = self.get_conn()
        try:
            return client.send(call)
        except errors.Unauthorized:
            self._client = None
            if self.get_conn().settings == client.settings:
                raise
        self._tell_new_keys()
        return self.get_conn().send(call)

    def _listed(self, query: dict[str, Any]) -> Iterator[Job]:
        seen: set[str] = set()
        for number in itertools.count(1):
            page = self._send(calls.list_jobs(**query, page_number=number))
            before = len(seen)
            for job in page:
                if job.job_id not in seen:
                    seen.add(job.job_id)
                    yield job
            # A page without a new job is none: some servers repeat the last one for ever.
            if len(page) < calls.LONGEST_PAGE or len(seen) == before:
                return

    def _read_source_keys(self, conn_id: str) -> tuple[str, str]:
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise _not_found(
                f"{conn_id!r}, which source_conn_id names",
                conn_id,
                "Add it, with the access key of the source as login and the secret key as password.",
            ) from error
        access_key, secret_key = ((key or "").strip() for key in (connection.login, connection.password))
        # Nothing else can be a key, nor be found again in whatever text a server sends back.
        if not all(re.fullmatch(r"[!-~]+", key) for key in (access_key, secret_key)):
            raise errors.InvalidSettings(
                f"Connection {conn_id!r}, which source_conn_id names, must have the access key of the source as login "
                "and the secret key as password, without white space and in ASCII."
            )
        return access_key, secret_key

    def _read_settings(self, name: str | None = None) -> Settings:
        try:
            return self._settings_of(self.get_connection(self.wasabi_conn_id), name)
        except AirflowNotFoundException as error:
            raise self._not_found() from error

    def _settings_of(self, connection: Connection, name: str | None = None) -> Settings:
        if connection.conn_type and connection.conn_type != self.conn_type:
            self.log.warning(
                "Connection %r is of type %r. It works if its fields are right, but type %r has the form for it.",
                self.wasabi_conn_id,
                connection.conn_type,
                self.conn_type,
            )
        return check(
            name=name or f"connection {self.wasabi_conn_id!r}",
            host=connection.host,
            access_key=connection.login,
            secret_key=connection.password,
            port=connection.port,
            # Airflow keeps the path of a connection's URI in the field of that name.
            path=connection.schema,
            extra=_as_saved(connection.extra),
        )

    def _tell_new_keys(self) -> None:
        self.log.info("Connection %r was changed: asking again with what is in it now.", self.wasabi_conn_id)

    def _not_found(self) -> errors.InvalidSettings:
        return _not_found(
            repr(self.wasabi_conn_id),
            self.wasabi_conn_id,
            f"Add it in Airflow under Admin, Connections with the type {self.hook_name}, or in the environment as "
            f"{_variable(self.wasabi_conn_id)}.",
        )


def _not_found(which: str, conn_id: str, advice: str) -> errors.InvalidSettings:
    # Airflow says the same of a connection that is not there and of one that it can't read.
    if _variable(conn_id) in os.environ:
        return errors.InvalidSettings(
            f"Airflow can't read connection {which}, in the environment's {_variable(conn_id)}. If that is JSON, check "
            "it. If it is a URI, percent-encode each of its parts: a slash in a key is %2F."
        )
    return errors.InvalidSettings(f"There is no connection {which}. {advice}")


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def _checked(job_id: str) -> str:
    try:
        return checked_id(job_id)
    except ValueError as error:
        raise ValueError(f"job_id {error}.") from None


async def _asend(settings: Settings, call: calls.Call[T]) -> T:
    async with AsyncJobsClient(settings) as client:
        return await client.send(call)


def _as_saved(extra: str | None) -> str | None:
    """
    Return the extra as Airflow saves it.

    The Test button of Airflow 2 tests the form as it is: each field of the extra is there a second time under a name
    of the form's own, and a ticked box is a "y".
    """
    prefix = f"extra__{WasabiJobsHook.conn_type}__"
    if not extra or f'"{prefix}' not in extra:
        return extra
    try:
        given = json.loads(extra)
        saved = {name: value for name, value in given.items() if not name.startswith(prefix)}
    except (ValueError, AttributeError, RecursionError):
        return extra
    for name, field in _card()["conn-fields"].items():
        if "boolean" in field["schema"]["type"] and saved.get(name) == "y":
            saved[name] = True
    return json.dumps(saved)


def _card() -> dict[str, Any]:
    (card,) = get_provider_info()["connection-types"]
    return dict(card)
