"""
Take the screenshots of the documentation from a running Airflow.

Start ``make airflow PORT=8080`` in another terminal, then run this file with the Python of the same environment::

    .venv/airflow-3.3/bin/python docs/screenshots.py http://127.0.0.1:8080 PASSWORD

It needs Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).parent / "images"
DAG_ID = "example_wasabi_submit_and_wait"
TASK_ID = "analyse"
ASSET = "wasabi_jobs_ingest"
LIMIT = 120.0
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--lang=en-US",
    "--window-size=1280,900",
)


def main() -> None:
    """Run the example, and take a screenshot of its run, its log and its XCom, and of the graph of an asset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("password")
    given = parser.parse_args()
    run_id = run_example(given.url, given.password)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(f"{given.url}/auth/login")
        find(browser, "//input[@name='username']").send_keys("admin")
        find(browser, "//input[@name='password']").send_keys(given.password, Keys.ENTER)
        find(browser, "//h2[normalize-space()='Welcome']")
        run = f"{given.url}/dags/{DAG_ID}/runs/{run_id}"
        take(browser, run, "//a[normalize-space()='use_result']", "airflow-run.png")
        take(browser, f"{run}/tasks/{TASK_ID}", "//*[contains(text(), 'completed')]", "airflow-log.png")
        browser.get(f"{run}/tasks/{TASK_ID}/xcom")
        find(browser, "//button[@aria-label='Expand all extra JSON']").click()
        take(browser, None, "//*[contains(text(), 'metadata_path')]", "airflow-xcom.png")
        browser.get(f"{given.url}/assets")
        find(browser, f"//a[normalize-space()='{ASSET}']").click()
        take(browser, None, "//*[contains(@class, 'react-flow__node')]", "airflow-asset.png")
    finally:
        browser.quit()


def run_example(url: str, password: str) -> str:
    """Run the example to its end, and return the id of the run."""
    login = {"username": "admin", "password": password}
    token = requests.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    runs = f"{url}/api/v2/dags/{DAG_ID}/dagRuns"
    response = requests.post(runs, json={"logical_date": None}, headers=headers, timeout=30)
    response.raise_for_status()
    run_id: str = response.json()["dag_run_id"]
    give_up_at = time.monotonic() + LIMIT
    while (state := requests.get(f"{runs}/{run_id}", headers=headers, timeout=30).json()["state"]) != "success":
        if state == "failed" or time.monotonic() > give_up_at:
            raise SystemExit(f"The run {run_id} is {state}.")
        time.sleep(2)
    return run_id


def find(browser: webdriver.Chrome, path: str) -> webdriver.remote.webelement.WebElement:
    """Return the element at that path, as soon as it is there."""
    return WebDriverWait(browser, LIMIT).until(lambda page: page.find_element(By.XPATH, path))


def take(browser: webdriver.Chrome, url: str | None, path: str, name: str) -> None:
    """Take a screenshot of a page as soon as the element is there and the page has settled."""
    if url is not None:
        browser.get(url)
    find(browser, path)
    time.sleep(3)
    browser.save_screenshot(str(IMAGES / name))


if __name__ == "__main__":
    main()
