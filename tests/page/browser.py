"""Debian's chromium, driven by selenium, and what it asked for and complained of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1300,1000",
)


class Browser:
    """One browser; `open` shows a page in a state of its own."""

    def __init__(self, folder: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("no chromium and chromedriver on the PATH; on Debian: sh .ci/chromium")
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(driver))
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        allow = {"behavior": "allow", "downloadPath": str(self.downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
        self.requests()  # the browser's own first page

    def open(self, page: Path, state: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + state)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def script(self, source: str, *arguments: Any) -> Any:
        return self.driver.execute_script(source, *arguments)

    def choose(self, name: str, choice: str) -> None:
        Select(self.find(f"#{name}")).select_by_visible_text(choice)

    def press(self, text: str) -> None:
        """Click the button that says so."""
        next(b for b in self.driver.find_elements(By.TAG_NAME, "button") if b.text == text).click()

    def header(self, column: str) -> WebElement:
        """The button by which the table is sorted by a column."""
        return self.find(f'[data-key="sort {column}"]')

    def order(self, column: str) -> str:
        """How a column is sorted: ascending, descending or none."""
        closest = "return arguments[0].closest('th').getAttribute('aria-sort')"
        return self.script(closest, self.header(column))

    def methods(self) -> list[str]:
        """Labels of the measured rows, as they stand in the table."""
        rows = "[...document.querySelectorAll('#scores tr.measured th')]"
        return self.script(
            f"return {rows}.map(th => [...th.childNodes].filter(n => n.nodeType === 3)"
            ".map(n => n.data).join(''))"
        )

    def cell(self, method: str, column: int) -> str:
        """The number in a measured row; column 0 is the ability."""
        row = self.methods().index(method)
        return self.script(
            "return document.querySelectorAll('#scores tr.measured')[arguments[0]].cells[arguments[1]]"
            ".firstChild.data",
            row,
            column + 1,
        )

    def downloaded(self, name: str) -> str:
        path = self.downloads / name
        WebDriverWait(self.driver, 10).until(lambda _: path.is_file() and path.stat().st_size)
        content = path.read_text()
        path.unlink()
        return content

    def complaints(self) -> list[str]:
        """Console messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def width(self, pixels: int) -> None:
        """The window's width; 0 is its own again."""
        if pixels == 0:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
