"""Chromium for tests, without a window: what a person would see, and what the browser complained of.

Debian's chromium and chromium-driver, by selenium; nothing is fetched.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.conftest import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs the packages chromium, chromium-driver")

WALL, LAPTOP, PHONE = (1920, 1080), (1366, 768), (390, 844)
ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
)
SECONDS = 30.0
"""A browser on a busy machine is waited for; what is asked for comes at once where it is idle."""

_ACTIVE = "const it = document.activeElement; return it.id || it.getAttribute('href') || it.className || it.tagName"


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    # -- what a person does --------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.driver.get(url)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Of what the page has, whatever a window may be."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """What the machine says that its user likes: color_scheme="dark"."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": told})

    def live_in(self, zone: str) -> None:
        self.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": zone})

    def press(self, *keys: str) -> None:
        """Wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(self, wanted: str) -> list[str]:
        """By the keyboard alone; what was passed on the way, by id."""
        passed: list[str] = []
        while (now := str(self.driver.execute_script(_ACTIVE))) != wanted:
            assert len(passed) < 50, f"{wanted} cannot be reached by the keyboard: {passed}"
            passed.append(now)
            self.press(Keys.TAB)
        return passed

    def choose(self, name: str, value: str) -> None:
        """Of a list of choices."""
        self[name].find_element(By.CSS_SELECTOR, f"option[value='{value}']").click()

    # -- what a person sees --------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def find(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str = "") -> str:
        """Of an element by its id, or of the whole page, as it is shown."""
        with contextlib.suppress(StaleElementReferenceException):
            return (self[name] if name else self.driver.find_element(By.TAG_NAME, "body")).text
        return ""

    def wait_for(self, words: str, name: str = "", seconds: float = SECONDS) -> None:
        """Until it is shown."""
        try:
            wait_until(lambda: words in self.text(name), seconds)
        except AssertionError:
            raise AssertionError(f"{words!r} is not shown in {name or 'the page'}:\n{self.text(name)}") from None

    def wait(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        wait_until(condition, seconds)

    def run(self, script: str, *arguments: object) -> Any:
        """In the page, as its own scripts run."""
        return self.driver.execute_script(script, *arguments)

    def shoot(self, path: Path) -> None:
        """What is shown, as a PNG."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the browser wrote to its console since the last call: errors of scripts, what the policy forbade."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]


@contextlib.contextmanager
def browse(folder: Path, size: tuple[int, int] = LAPTOP, language: str = "en-US") -> Iterator[Browser]:
    """folder: where its profile is kept, so that a second one there remembers. language: of its user."""
    options = webdriver.ChromeOptions()
    assert CHROMIUM
    assert DRIVER
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--lang={language}", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER, log_output=str(folder / "chromedriver.log")))
    try:
        driver.set_page_load_timeout(SECONDS)
        browser = Browser(driver)
        browser.resize(*size)
        yield browser
    finally:
        driver.quit()
        driver.command_executor.close()  # its connections, which quit leaves open
