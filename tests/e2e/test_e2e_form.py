"""The connection form in a real browser: show, fill in, save and test a connection in Airflow's pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from airflow_installation import ACCESS_KEY, IS_AIRFLOW_2, SECRET_KEY, Airflow, Emulator
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from airflow_wasabi_jobs.demo.standalone import free_port
from airflow_wasabi_jobs.get_provider_info import get_provider_info

AIRFLOW = tuple(map(int, version("apache-airflow").split(".")[:3]))
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--lang=en-US",
    "--window-size=1280,1400",
    "--force-device-scale-factor=1.35",  # for a sharp screenshot
]
TIMEOUT = 60.0

(CONNECTION_TYPE,) = get_provider_info()["connection-types"]
OPTIONS = CONNECTION_TYPE["conn-fields"]
STANDARD = ["Description", "Base URL", "Access key", "Secret key", "Port"]

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser: Debian's packages chromium and chromium-driver"
)
airflow_3_only = pytest.mark.skipif(AIRFLOW < (3, 1), reason="the pages of Airflow 3.1 and later")
airflow_2_only = pytest.mark.skipif(AIRFLOW >= (3, 0), reason="the pages of Airflow 2")


@pytest.fixture(scope="module")
def browser(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        # The first page signs in, and may redirect to another page.
        browser.get(airflow.url)
        if IS_AIRFLOW_2:
            _find_visible(browser, "//input[@name='username']").send_keys("admin")
            _find_visible(browser, "//input[@name='password']").send_keys("admin", Keys.ENTER)
            _find_visible(browser, "//h2[normalize-space()='DAGs']")
        else:
            _find_visible(browser, "//h2[normalize-space()='Welcome']")
        yield browser
    finally:
        browser.quit()


class Page:
    """Airflow's connections page, with elements located by their visible text."""

    def __init__(self, browser: webdriver.Chrome, airflow: Airflow) -> None:
        self._browser = browser
        self._url = f"{airflow.url}/connections"

    def open(self) -> None:
        self._browser.get(self._url)

    def add(self, conn_id: str) -> Form:
        self.open()
        _press(self._find_visible("//button[normalize-space()='Add Connection']"))
        form = Form(self._browser, self._find_visible("//*[@role='dialog']"))
        form.fill("Connection ID", conn_id)
        connection_type = form.find("Connection Type")
        connection_type.send_keys(CONNECTION_TYPE["hook-name"])
        self._find_visible(f"//*[@role='option'][normalize-space()='{CONNECTION_TYPE['hook-name']}']")
        _press(connection_type)
        return form

    def edit(self, conn_id: str) -> Form:
        self.open()
        _press(self._find_visible(_in_row(conn_id, "Edit Connection")))
        return Form(self._browser, self._find_visible("//*[@role='dialog']"))

    def test(self, conn_id: str) -> str:
        """Press the test button of a connection, and return the notice."""
        self.open()
        _press(self._find_visible(_in_row(conn_id, "Test Connection")))
        return self.notice("Test Connection")

    def notice(self, title: str) -> str:
        """Wait for a notice with this title, and return its text. Airflow hides it after five seconds."""
        path = f"//*[@role='status'][starts-with(normalize-space(), '{title}')]"
        wait = WebDriverWait(self._browser, TIMEOUT, ignored_exceptions=[StaleElementReferenceException])
        # The text is empty until the notice has faded in.
        return wait.until(lambda browser: "".join(element.text for element in browser.find_elements(By.XPATH, path)))

    def _find_visible(self, path: str) -> WebElement:
        return _find_visible(self._browser, path)


class Form:
    """The dialog that adds or edits a connection; one section is open at a time."""

    def __init__(self, browser: webdriver.Chrome, dialog: WebElement) -> None:
        self._browser = browser
        self.dialog = dialog

    def open(self, section: str) -> WebElement:
        button = self._find_visible(f".//button[normalize-space()='{section}']")
        if button.get_attribute("aria-expanded") == "false":
            _press(button)
        region = self.dialog.find_element(By.ID, button.get_attribute("aria-controls") or "")
        self._wait(lambda: button.get_attribute("aria-expanded") == "true" and region.is_displayed())
        return region

    def fields(self, section: str) -> dict[str, str]:
        """Return the description of each field of a section, by label."""
        groups = self.open(section).find_elements(By.XPATH, ".//*[@role='group'][.//label]")
        texts = self._wait(lambda: all(texts := [group.text for group in groups]) and texts)
        return {label.strip(): " ".join(rest) for label, *rest in (text.splitlines() for text in texts)}

    def find(self, label: str) -> WebElement:
        """Return the input element of a label."""
        group = f".//*[@role='group'][.//label[starts-with(normalize-space(), '{label}')]]"
        return self._find_visible(f"{group}//*[self::input or self::textarea][not(@aria-hidden)]")

    def fill(self, label: str, text: str | int) -> None:
        field = self.find(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(text))
        self._wait(lambda: field.get_attribute("value") == str(text))

    def switch(self, label: str) -> None:
        field = self.find(label)
        previous = field.is_selected()
        field.send_keys(Keys.SPACE)
        self._wait(lambda: field.is_selected() is not previous)

    def save(self) -> None:
        _press(self._find_visible(".//button[normalize-space()='Save']"))

    def _find_visible(self, path: str) -> WebElement:
        return _find_visible(self.dialog, path)

    def _wait(self, condition: Any) -> Any:
        return WebDriverWait(self._browser, TIMEOUT).until(lambda _: condition())


class Airflow2Form(Form):
    """The page that adds a connection in Airflow 2."""

    def __init__(self, browser: webdriver.Chrome, airflow: Airflow, conn_id: str) -> None:
        browser.get(f"{airflow.url}/connection/add")
        super().__init__(browser, _find_visible(browser, "//form[@id='model_form']"))
        self.fill("Connection Id", conn_id)
        _press(
            self._find_visible(
                ".//tr[.//label[starts-with(normalize-space(), 'Connection Type')]]//*[@role='combobox']"
            )
        )
        connection_type = _find_visible(browser, "//input[@type='search']")
        connection_type.send_keys(CONNECTION_TYPE["hook-name"])
        _find_visible(browser, f"//*[@role='option'][normalize-space()='{CONNECTION_TYPE['hook-name']}']")
        _press(connection_type)
        self._find_visible(".//label[normalize-space()='Base URL']")

    def fields(self, _: str = "") -> dict[str, str]:
        rows = [row.text for row in self.dialog.find_elements(By.XPATH, ".//tr[.//label]")]
        return {label: " ".join(rest) for label, *rest in (row.splitlines() for row in rows if row)}

    def find(self, label: str) -> WebElement:
        label_element = self._find_visible(f".//label[starts-with(normalize-space(), '{label}')]")
        return self.dialog.find_element(By.ID, label_element.get_attribute("for") or "")

    def test(self) -> str:
        """Press the test button, and return the alert."""
        _press(self._find_visible(".//button[normalize-space()='Test']"))
        alert = "//*[contains(@class, 'alert-success') or contains(@class, 'alert-danger')]"
        return _find_visible(self._browser, alert).text


def _find_visible(parent: webdriver.Chrome | WebElement, path: str) -> WebElement:
    wait = WebDriverWait(parent, TIMEOUT, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(
        lambda parent: next(
            (element for element in parent.find_elements(By.XPATH, path) if element.is_displayed()), None
        )
    )


def _press(button: WebElement) -> None:
    """Press a button with the keyboard: a click could miss it while a section above it expands."""
    button.send_keys(Keys.ENTER)


def _in_row(conn_id: str, button: str) -> str:
    return f"//tr[td[normalize-space()='{conn_id}']]//button[@aria-label='{button}']"


@pytest.fixture
def page(browser: webdriver.Chrome, airflow: Airflow) -> Page:
    return Page(browser, airflow)


def add(
    page: Page,
    conn_id: str,
    emulator: Emulator,
    *,
    secret_key: str = SECRET_KEY,
    with_port: bool = True,
    **options: Any,
) -> None:
    form = page.add(conn_id)
    form.open("Standard Fields")
    form.fill("Base URL", emulator.url)
    form.fill("Access key", ACCESS_KEY)
    form.fill("Secret key", secret_key)
    if with_port:
        form.fill("Port", emulator.port)
    form.open("Extra Fields")
    for name, value in options.items():
        label = OPTIONS[name]["label"]
        if value is True:
            form.switch(label)
        else:
            form.fill(label, value)
    form.save()
    assert page.notice("Create Connection").endswith("Connection has been successfully created.")


@airflow_3_only
class TestForm:
    def test_standard_fields(self, page: Page) -> None:
        form = page.add("unsaved")
        assert list(form.fields("Standard Fields")) == STANDARD
        assert form.find("Base URL").get_attribute("placeholder") == "https://air.example.com"
        assert form.find("Port").get_attribute("placeholder") == "443 (required for Test on Airflow 3.3.1 and 3.3.2)"

    def test_option_fields_have_a_description(self, page: Page) -> None:
        form = page.add("unsaved")
        options = {option["label"]: option["description"] for option in OPTIONS.values()}
        assert form.fields("Extra Fields") == options

    def test_only_secret_fields_are_hidden(self, page: Page) -> None:
        form = page.add("unsaved")
        form.open("Standard Fields")
        password_fields = [label for label in STANDARD if form.find(label).get_attribute("type") == "password"]
        form.open("Extra Fields")
        labels = [option["label"] for option in OPTIONS.values()]
        password_fields += [label for label in labels if form.find(label).get_attribute("type") == "password"]
        # Airflow before 3.3 does not hide extra fields.
        assert password_fields == (["Secret key", "Proxy"] if AIRFLOW >= (3, 3) else ["Secret key"])

    def test_screenshot(self, browser: webdriver.Chrome, page: Page, folder: Path) -> None:
        form = page.add("wasabi_default")
        form.fill("Description", "AI analysis of the media in our buckets")
        form.fill("Base URL", "https://air.example.com")
        form.fill("Access key", "EXAMPLE-ACCESS-KEY")
        form.fill("Secret key", "no-secret-key-at-all")
        form.fill("Port", 443)
        browser.execute_script("document.activeElement.blur()")
        assert form.dialog.screenshot(str(folder / "connection-form.png"))


@airflow_3_only
class TestConnection:
    def test_added_connection_works(self, page: Page, airflow: Airflow, emulator: Emulator) -> None:
        add(page, "added", emulator, read_timeout=7)

        message = page.test("added")
        assert message == "Test Connection Successful\nThe AiR Jobs API responded and accepted the keys."

        connection = airflow.request("GET", "/connections/added", keep=False)
        assert (connection["conn_type"], connection["host"], connection["login"]) == (
            "wasabi",
            emulator.url,
            ACCESS_KEY,
        )
        assert float(json.loads(connection["extra"])["read_timeout"]) == 7

    @pytest.mark.xfail(
        AIRFLOW in {(3, 3, 1), (3, 3, 2)},
        raises=AssertionError,
        reason="responds with Bad Request for every connection without a port: https://github.com/apache/airflow/pull/73298",
    )
    def test_connection_without_a_port_works(self, page: Page, emulator: Emulator) -> None:
        add(page, "without_port", emulator, with_port=False)

        assert page.test("without_port").startswith("Test Connection Successful")

    def test_wrong_key(self, page: Page, emulator: Emulator) -> None:
        add(page, "wrong_key", emulator, secret_key="not-the-secret-key")

        title, message = page.test("wrong_key").split("\n", 1)
        assert title == "Test Connection Failed"
        assert message.startswith(f"Listing jobs failed ({emulator.url}): HTTP 401 Unauthorized. ")
        assert message.endswith("Check the access key (login) and secret key (password) of the connection.")

    def test_option_out_of_bounds(self, page: Page, emulator: Emulator) -> None:
        add(page, "out_of_bounds", emulator, connect_timeout=0)

        assert page.test("out_of_bounds") == (
            "Test Connection Failed\n'connect_timeout' in the extra of this connection must be a number of seconds, "
            "more than 0 and at most 600."
        )

    def test_edited_connection_keeps_its_secrets(self, page: Page, emulator: Emulator) -> None:
        proxy = f"http://127.0.0.1:{free_port()}"
        add(page, "changed", emulator, retries=0, allow_http=True, proxy=proxy)
        previous = page.test("changed")

        form = page.edit("changed")
        form.open("Standard Fields")
        assert SECRET_KEY not in (form.find("Secret key").get_attribute("value") or "")
        form.open("Extra Fields")
        assert proxy not in (form.find("Proxy").get_attribute("value") or "")
        form.fill("Response timeout", 9)
        form.save()
        page.notice("Update Connection")

        # The proxy port is closed: the message shows that the proxy setting was kept.
        assert previous.startswith("Test Connection Failed\nListing jobs failed (")
        assert page.test("changed") == previous


@airflow_2_only
class TestAirflow2Form:
    def test_fields_and_descriptions(self, browser: webdriver.Chrome, airflow: Airflow) -> None:
        form = Airflow2Form(browser, airflow, "unsaved")
        shown = form.fields()
        options = {option["label"]: option["description"] for option in OPTIONS.values()}
        assert list(shown)[2:] == [*STANDARD, "Extra", *options]
        assert {label: shown[label] for label in options} == options
        password_fields = [
            label for label in [*STANDARD, *options] if form.find(label).get_attribute("type") == "password"
        ]
        assert password_fields == ["Secret key", "Proxy"]

    def test_test_and_save_a_connection(self, browser: webdriver.Chrome, airflow: Airflow, emulator: Emulator) -> None:
        form = Airflow2Form(browser, airflow, "added")
        form.fill("Base URL", emulator.url)
        form.fill("Access key", ACCESS_KEY)
        form.fill("Secret key", "not-the-secret-key")
        form.fill("Response timeout", 7)
        form.switch("Allow unencrypted HTTP")
        message = form.test()
        assert message.startswith(f"Listing jobs failed ({emulator.url}): HTTP 401 Unauthorized. ")

        form.fill("Secret key", SECRET_KEY)
        form.test()
        _find_visible(browser, "//*[normalize-space()='The AiR Jobs API responded and accepted the keys.']")

        form.save()
        _find_visible(browser, "//*[contains(normalize-space(text()), 'Added Row')]")
        connection = airflow.request("GET", "/connections/added", keep=False)
        assert (connection["conn_type"], connection["host"], connection["login"]) == (
            "wasabi",
            emulator.url,
            ACCESS_KEY,
        )
        extra = {name: value for name, value in json.loads(connection["extra"]).items() if value is not None}
        assert extra == {"read_timeout": "7", "allow_http": True}
