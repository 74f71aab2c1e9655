"""An Airflow connection becomes a client of the AiR Jobs API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_wasabi_jobs import get_provider_info
from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.ids import checked_id
from airflow_wasabi_jobs.api.settings import Settings, check

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_wasabi_jobs.api.models import JobReport

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
        call = calls.job_status(_checked(job_id))
        client = self.get_conn()
        try:
            return client.send(call)
        except errors.Unauthorized:
            self._client = None
            if self.get_conn().settings == client.settings:
                raise
        self._tell_new_keys()
        return self.get_conn().send(call)

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
            JobsClient(self._read_settings("this connection")).send(calls.list_jobs(page_size=1))
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
            extra=connection.extra,
        )

    def _tell_new_keys(self) -> None:
        self.log.info("Connection %r was changed: asking again with what is in it now.", self.wasabi_conn_id)

    def _not_found(self) -> errors.InvalidSettings:
        return errors.InvalidSettings(
            f"There is no connection {self.wasabi_conn_id!r}. Add it in Airflow under Admin, Connections with the type "
            f"{self.hook_name}, or in the environment as AIRFLOW_CONN_{self.wasabi_conn_id.upper()}."
        )


def _checked(job_id: str) -> str:
    try:
        return checked_id(job_id)
    except ValueError as error:
        raise ValueError(f"job_id {error}.") from None


async def _asend(settings: Settings, call: calls.Call[T]) -> T:
    async with AsyncJobsClient(settings) as client:
        return await client.send(call)


def _card() -> dict[str, Any]:
    (card,) = get_provider_info()["connection-types"]
    return dict(card)
