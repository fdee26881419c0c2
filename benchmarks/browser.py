"""The report in headless Chromium: how to start it, and what a reader sees and does."""

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-sync",
    "disable-component-update",
)


def is_there():
    """Return whether there is a browser, and its driver."""
    return any(map(shutil.which, BROWSERS)) and shutil.which(DRIVER) is not None


def start(profile, width=1400, height=1000):
    """Start a browser that keeps its log of requests; `profile` is an empty folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for switch in (
        *SWITCHES,
        "disable-background-networking",
        f"window-size={width},{height}",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which(DRIVER)))


class Page:
    """What a reader sees and does."""

    def __init__(self, browser):
        self.browser = browser
        self.wait(lambda: self.run("return document.querySelectorAll('.token').length"))

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 10).until(lambda _: condition())

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def open(self, index):
        self.find("#example-list button")[index].click()
        self.wait(
            lambda: (
                self.run("return document.querySelector('[aria-current]').dataset.at") == str(index)
            )
        )
        self.wait(
            lambda: (
                self.text("#facts .sentence")
                == self.run("return document.querySelector('[aria-current] .text').textContent")
            )
        )

    def press(self, selector, *names):
        from selenium.webdriver.common.keys import Keys

        self.find(selector)[0].send_keys(*(getattr(Keys, name) for name in names))

    def select(self, row, head=None):
        self.find(f'#heads button[data-row="{row}"][data-head="{"" if head is None else head}"]')[
            0
        ].click()

    def point_at(self, i, j):
        """Move the mouse to a cell of the attribution matrix and return both numbers as they are
        shown.
        """
        self.run(
            """const map = document.getElementById("attribution");
            const box = map.getBoundingClientRect();
            const at = (k) => map.gutter + (k + 0.5) * map.cell;
            const [x, y] = [box.left + at(arguments[1]), box.top + at(arguments[0])];
            map.dispatchEvent(new PointerEvent("pointermove",
              {clientX: x, clientY: y, bubbles: true}));""",
            i,
            j,
        )
        return [
            self.text(f'#readout output[data-name="{name}"]')
            for name in ("attribution", "attention")
        ]

    def pairs(self):
        """Return the table of pairs as it is shown: [from, to, attribution, of largest, attention]
        of each row.
        """
        rows = self.run(
            """return [...document.querySelectorAll("#pairs tbody tr")].map((row) =>
            [row.dataset.from, row.dataset.to,
             ...[...row.querySelectorAll(".number")].map((cell) => cell.textContent)])"""
        )
        return [[int(row[0]), int(row[1]), *row[2:]] for row in rows]


def number(shown):
    return float(shown.replace("\N{MINUS SIGN}", "-"))


def unit(shown):
    """Return what one in the last digit is worth."""
    digits, _, exponent = shown.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def assert_shows(shown, stored):
    """Assert that a number on the screen is the stored one, rounded."""
    assert abs(number(shown) - stored) <= 0.5001 * unit(shown), (shown, stored)
