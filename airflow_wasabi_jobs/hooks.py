"""The hook: an Airflow connection becomes a client of the AiR Jobs API."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_wasabi_jobs import connection_form, metrics
from airflow_wasabi_jobs.api import batches, endpoints, submissions
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.exceptions import AuthenticationError, ConnectionConfigError, WasabiApiError
from airflow_wasabi_jobs.api.ids import validate_id
from airflow_wasabi_jobs.api.models import DEFAULT_PRIORITY, Destination, JobStatus, Source, Submission
from airflow_wasabi_jobs.api.pages import Pages
from airflow_wasabi_jobs.api.settings import Settings, build_settings, is_loopback
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.results import DEFAULT_MAX_BYTES, read_result

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_wasabi_jobs.api.batches import BatchReport
    from airflow_wasabi_jobs.api.models import Job, JobErrors, JobMetadata, JobReport

T = TypeVar("T")


class WasabiJobsHook(BaseHook):
    """
    Sends requests to the Wasabi AiR Jobs API with the keys of an Airflow connection.

    The connection has the type ``wasabi``. Its ``host`` is the base URL that Wasabi gave you, its ``login`` the access
    key and its ``password`` the secret key of a Wasabi user with the IAM policy ``WasabiViewAiR``. Its ``extra`` may
    hold ``connect_timeout``, ``read_timeout``, ``retries``, ``verify``, ``allow_http``, ``proxy`` and ``console_url``:
    see :ref:`howto/connection:wasabi`.

    The connection is read when it is first needed, and once more after a 401, so that changed keys are picked up.

    :param wasabi_conn_id: id of the connection (str). Default: ``wasabi_default``.
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
        Return the client of this connection.

        :raises ConnectionConfigError: if the connection does not exist or cannot be used.
        """
        if self._client is None:
            self._client = JobsClient(self.read_settings(), metrics.count_request)
        return self._client

    def get_job_status(self, job_id: str) -> JobReport:
        """
        Get the status of a job.

        :param job_id: the job's id (str).
        :return: the report, with ``job_id``, ``status`` and ``error_count``.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises WasabiApiError: if the request fails. :mod:`airflow_wasabi_jobs.exceptions` lists the subclasses, and
            which of them are transient.
        """
        return self._send(endpoints.get_job_status(_validate_job_id(job_id)))

    async def aget_job_status(self, job_id: str) -> JobReport:
        """
        Get the status of a job without blocking the event loop, not even to read the connection.

        :param job_id: the job's id (str).
        :return: the report, with ``job_id``, ``status`` and ``error_count``.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        request = endpoints.get_job_status(_validate_job_id(job_id))
        if self._async_settings is None:
            self._async_settings = await self.aread_settings()
        settings = self._async_settings
        try:
            return await _send_async(settings, request)
        except AuthenticationError:
            self._async_settings = await self.aread_settings()
            if self._async_settings == settings:
                raise
        self._log_changed_keys()
        return await _send_async(self._async_settings, request)

    def get_job(self, job_id: str) -> Job:
        """
        Get a job with what it was submitted with.

        :param job_id: the job's id (str).
        :return: the job. Any field but ``job_id`` and ``status`` may be None.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        return self._send(endpoints.get_job(_validate_job_id(job_id)))

    def get_job_errors(self, job_id: str) -> JobErrors:
        """
        Get the error code of a job that failed.

        :param job_id: the job's id (str).
        :return: the report and ``error_code``, which is None if the API names none.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        return self._send(endpoints.get_job_errors(_validate_job_id(job_id)))

    def get_job_metadata(self, job_id: str) -> JobMetadata:
        """
        Get the location of the result of a completed job.

        :param job_id: the job's id (str).
        :return: ``path``, the URL of the metadata file, and ``destination``, its bucket.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises NotFoundError: if the job does not exist or has not completed. Right after a job has completed, the
            location may not be available yet.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        return self._send(endpoints.get_job_metadata(_validate_job_id(job_id)))

    def get_job_result(
        self, job_id: str, *, storage_conn_id: str | None = None, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> dict[str, Any]:
        """
        Read the result of a completed job. It is read as a whole and may be large: do not return it from a task.

        :param job_id: the job's id (str).
        :param storage_conn_id: id of the connection to the storage of the result (str): of the type ``aws``, with
            ``endpoint_url`` and ``region_name`` in its extra. Needs the package ``airflow-wasabi-jobs[s3]``. Default:
            the credentials of the environment.
        :param max_bytes: size of the largest file that is read, in bytes (int). Default: 100 MiB.
        :return: the content of the file, with ``job_id``, ``message`` and ``message_payload``.
        :raises ValueError: if ``job_id`` cannot be a job id.
        :raises NotFoundError: if the location of the result is not available, as in :meth:`get_job_metadata`.
        :raises ResultReadError: if the file is missing, too large or not JSON, or the storage rejects the request.
        :raises ConnectionConfigError: if the connection to the storage does not exist.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        metadata = self.get_job_metadata(job_id)
        secrets = () if storage_conn_id is None else self._read_storage_keys(storage_conn_id)
        # Only an emulator on the same machine has its results in local files.
        is_local = is_loopback(urlsplit(self.get_conn().settings.base_url).hostname or "")
        return read_result(
            metadata, conn_id=storage_conn_id, secrets=secrets, max_bytes=max_bytes, allow_local_files=is_local
        )

    def list_jobs(
        self,
        *,
        batch: str | None = None,
        name: str | None = None,
        status: JobStatus | str | None = None,
        newest_first: bool = False,
    ) -> Iterator[Job]:
        """
        List the jobs of the account, each once. Pages of 100 are requested as they are needed.

        The list is not a snapshot: a job that is created or changes its status meanwhile may be missing. The API
        applies the filters, and does not document whether they match exactly.

        :param batch: only jobs of this batch (str). Default: all.
        :param name: only jobs with this name (str). Default: all.
        :param status: only jobs with this status (str or JobStatus). Default: all.
        :param newest_first: whether the newest job comes first (bool). Default: False.
        :return: an iterator of jobs, without their services.
        :raises ValueError: if ``status`` is unknown.
        :raises WasabiApiError: if a request fails, as in :meth:`get_job_status`.
        """
        try:
            known_status = None if status is None else JobStatus(status)
        except ValueError:
            raise ValueError(f"status is {status!r}, but must be one of {', '.join(JobStatus)}.") from None
        return self._list({"batch": batch, "name": name, "status": known_status, "newest_first": newest_first})

    def get_batch_report(
        self,
        batch: str,
        *,
        expected_jobs: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = True,
    ) -> BatchReport:
        """
        Poll a batch of jobs once.

        :param batch: name of the batch (str). It must match exactly.
        :param expected_jobs: number of jobs that the batch has at least before it can be finished (int). Default: 1.
        :param max_failures: how many jobs may fail or be cancelled (int). Default: 0.
        :param fail_fast: whether the batch counts as finished as soon as more jobs than ``max_failures`` failed or were
            cancelled (bool). Default: True.
        :return: the report, with ``is_finished``, ``counts`` by status, ``failures`` and ``more_failures``.
        :raises WasabiApiError: if a request fails, as in :meth:`get_job_status`.
        """
        requests = batches.poll_batch(
            batch, expected_jobs=expected_jobs, max_failures=max_failures, fail_fast=fail_fast
        )
        return batches.send_all(requests, self._send)

    def submit_job(
        self,
        *,
        name: str,
        source: Mapping[str, str],
        destination: Mapping[str, str],
        services: Sequence[str] | Mapping[str, Any],
        priority: int = DEFAULT_PRIORITY,
        batch: str | None = None,
        source_conn_id: str | None = None,
    ) -> Job:
        """
        Submit a job. The user of the keys needs the IAM policy ``WasabiManageAiR``.

        The request is sent once and never retried, because the same request twice makes two jobs. After a transient
        error it is unknown whether the job was created: look it up by its name with :meth:`list_jobs`.

        :param name: name of the job, 1 to 256 characters (str).
        :param source: location of the media file (dict): ``bucket`` and ``object_key``, optionally ``region`` and
            ``endpoint``.
        :param destination: bucket for the result (dict): ``bucket`` and ``region``.
        :param services: services that analyse the file: a list such as ``["ocr", "s2t"]``, or a dict with ``""`` or
            ``{"config": {…}}`` for each service. Documented are ``ocr``, ``s2t``, ``nld``, ``audiotag``, ``face`` and
            ``logo``; others are sent as given.
        :param priority: 1 to 10 (int). Default: 5.
        :param batch: batch of the job, up to 256 characters (str). Default: none.
        :param source_conn_id: id of a connection with the keys of a source outside Wasabi (str): the access key is its
            ``login``, the secret key its ``password``. Default: the source is in Wasabi.
        :return: the job, with its id.
        :raises ValueError: if a field is invalid.
        :raises WasabiApiError: if the request fails, as in :meth:`get_job_status`.
        """
        submission = self.build_submission(
            name=name,
            source=source,
            destination=destination,
            services=services,
            priority=priority,
            batch=batch,
            source_conn_id=source_conn_id,
        )
        job = self._send(endpoints.submit_job(submission))
        metrics.count("submissions")
        return job

    def build_submission(
        self,
        *,
        name: str,
        source: Mapping[str, str],
        destination: Mapping[str, str],
        services: Sequence[str] | Mapping[str, Any],
        priority: int = DEFAULT_PRIORITY,
        batch: str | None = None,
        source_conn_id: str | None = None,
    ) -> Submission:
        """
        Validate a submission and read the keys of its source. Nothing is sent to the API.

        :param name: as in :meth:`submit_job`.
        :param source: as in :meth:`submit_job`.
        :param destination: as in :meth:`submit_job`.
        :param services: as in :meth:`submit_job`.
        :param priority: as in :meth:`submit_job`.
        :param batch: as in :meth:`submit_job`.
        :param source_conn_id: as in :meth:`submit_job`.
        :return: the submission. It holds the keys of the source, and its text form does not show them.
        :raises ValueError: if a field is invalid.
        :raises ConnectionConfigError: if the connection of the source does not exist or cannot be used.
        """
        submission = Submission(
            name=submissions.validate_field("name", name),
            source=Source(**submissions.validate_field("source", source)),
            destination=Destination(**submissions.validate_field("destination", destination)),
            services=submissions.validate_field("services", services),
            priority=submissions.validate_field("priority", priority),
            batch=submissions.validate_field("batch", batch),
        )
        if source_conn_id is not None:
            access_key, secret_key = self._read_source_keys(source_conn_id)
            submission = msgspec.structs.replace(submission, source_access_key=access_key, source_secret_key=secret_key)
        for service in sorted(submission.services.keys() - submissions.KNOWN_SERVICES):
            LOG.info("Service %r is unknown to this release and is sent as given.", service)
        return submission

    def read_settings(self, name: str | None = None) -> Settings:
        """
        Read the connection.

        :param name: how messages refer to the connection (str). Default: by its id.
        :return: the settings of a client.
        :raises ConnectionConfigError: if the connection does not exist or cannot be used.
        """
        try:
            return self._to_settings(self.get_connection(self.wasabi_conn_id), name)
        except AirflowNotFoundException as error:
            raise self._connection_not_found() from error

    async def aread_settings(self) -> Settings:
        """
        Read the connection without blocking the event loop.

        :return: the settings of a client.
        :raises ConnectionConfigError: if the connection does not exist or cannot be used.
        """
        try:
            return self._to_settings(await get_async_connection(self.wasabi_conn_id))
        except AirflowNotFoundException as error:
            raise self._connection_not_found() from error

    def test_connection(self) -> tuple[bool, str]:
        """
        List one job, for the Test button of the connection form.

        :return: whether that succeeded, and a message for the user.
        """
        try:
            # Airflow gives the connection under test a random id, which means nothing to the user.
            settings = self.read_settings("this connection")
            client = JobsClient(msgspec.structs.replace(settings, name=settings.base_url))
            client.send(endpoints.list_job_summaries(page_size=1))
        except WasabiApiError as error:
            return False, str(error)
        return True, "The AiR Jobs API responded and accepted the keys."

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which fields the connection form hides and renames, for Airflow before 3.2."""
        return connection_form.get_field_behaviour()

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form fields of the extra, for Airflow before 3.2."""
        return connection_form.create_widgets()

    def _send(self, request: endpoints.Request[T]) -> T:
        client = self.get_conn()
        try:
            return client.send(request)
        except AuthenticationError:
            self._client = None
            if self.get_conn().settings == client.settings:
                raise
        self._log_changed_keys()
        return self.get_conn().send(request)

    def _list(self, query: dict[str, Any]) -> Iterator[Job]:
        pages: Pages[Job] = Pages()
        while not pages.is_complete:
            request = endpoints.list_jobs(**query, page_number=pages.next_number)
            yield from pages.add(self._send(request))

    def _read_source_keys(self, conn_id: str) -> tuple[str, str]:
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise _connection_not_found(
                f"{conn_id!r} (source_conn_id)",
                conn_id,
                "Add it, with the access key of the source as login and the secret key as password.",
            ) from error
        access_key, secret_key = ((key or "").strip() for key in (connection.login, connection.password))
        # Redaction finds only such keys in whatever text a server returns.
        if not all(re.fullmatch(r"[!-~]+", key) for key in (access_key, secret_key)):
            raise ConnectionConfigError(
                f"Connection {conn_id!r} (source_conn_id) must have the access key of the source as login and the "
                "secret key as password, in ASCII and without white space."
            )
        return access_key, secret_key

    def _read_storage_keys(self, conn_id: str) -> tuple[str | None, ...]:
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise _connection_not_found(
                f"{conn_id!r} (storage_conn_id)",
                conn_id,
                "Add it with the type aws, keys that may read the bucket, endpoint_url and region_name.",
            ) from error
        extra = connection.extra_dejson
        keys_in_extra = (extra.get(name) for name in ("aws_secret_access_key", "aws_session_token"))
        return connection.login, connection.password, *keys_in_extra

    def _to_settings(self, connection: Connection, name: str | None = None) -> Settings:
        if connection.conn_type and connection.conn_type != self.conn_type:
            LOG.warning(
                "Connection %r has the type %r instead of %r. It is used anyway.",
                self.wasabi_conn_id,
                connection.conn_type,
                self.conn_type,
            )
        return build_settings(
            name=name or f"connection {self.wasabi_conn_id!r}",
            host=connection.host,
            access_key=connection.login,
            secret_key=connection.password,
            port=connection.port,
            # Airflow stores the path of a connection's URI as its schema.
            path=connection.schema,
            extra=connection_form.normalize_extra(connection.extra),
        )

    def _log_changed_keys(self) -> None:
        LOG.info("Connection %r has changed; retrying with its new keys.", self.wasabi_conn_id)

    def _connection_not_found(self) -> ConnectionConfigError:
        return _connection_not_found(
            repr(self.wasabi_conn_id),
            self.wasabi_conn_id,
            f"Add it in Airflow under Admin > Connections with the type {self.hook_name}, or as the environment "
            f"variable {_variable_name(self.wasabi_conn_id)}.",
        )


def _connection_not_found(description: str, conn_id: str, advice: str) -> ConnectionConfigError:
    # Airflow raises the same error for a connection that does not exist and for one that it cannot parse.
    if _variable_name(conn_id) in os.environ:
        return ConnectionConfigError(
            f"Airflow cannot parse connection {description} in the environment variable {_variable_name(conn_id)}. "
            "If it is JSON, check its syntax. If it is a URI, percent-encode each part: a slash in a key is %2F."
        )
    return ConnectionConfigError(f"Connection {description} does not exist. {advice}")


def _variable_name(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def _validate_job_id(job_id: str) -> str:
    try:
        return validate_id(job_id)
    except ValueError as error:
        raise ValueError(f"job_id {error}.") from None


async def _send_async(settings: Settings, request: endpoints.Request[T]) -> T:
    async with AsyncJobsClient(settings, metrics.count_request) as client:
        return await client.send(request)
