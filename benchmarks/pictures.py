"""Take the pictures of the report that the docs show, in headless Chromium.

    python benchmarks/pictures.py --explanations runs/demo/attribution --images docs

`make demo` writes the explanations. In docs/: report_light.png, report_dark.png with a head chosen,
report_compare.png with two texts.
"""

import argparse
import tempfile
import time
from pathlib import Path

import browser as browser_driver

import attattr_jax as aa

PAIR = "document.querySelector('#pairs tbody tr').click()"


def picture(browser, page: Path, scheme: str, file: Path, *scripts: str) -> None:
    """Take a picture of a page in light or dark colours after these scripts."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get("about:blank")
    browser.get(page.as_uri())
    shown = browser_driver.Page(browser)
    for script in scripts:
        shown.run(script)
    time.sleep(0.5)  # two frames, and what is unpacked meanwhile
    browser.save_screenshot(str(file))


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--explanations", type=Path, default=Path("runs/demo/attribution"))
    parser.add_argument("--images", type=Path, default=Path("docs"))
    options = parser.parse_args()
    stored = aa.load_attributions(options.explanations)
    strongest = stored[0].heads[0]
    head = (
        f'document.querySelector(\'#heads [data-row="{strongest["layer"]}"]'
        f'[data-head="{strongest["head"]}"]\').click()'
    )
    with tempfile.TemporaryDirectory() as scratch:
        browser = browser_driver.start(Path(scratch) / "profile", height=1150)
        try:
            page = stored.show(Path(scratch) / "report.html")
            picture(browser, page, "light", options.images / "report_light.png", PAIR)
            picture(browser, page, "dark", options.images / "report_dark.png", head, PAIR)
            two = aa.compare(stored[0], stored[2]).show(Path(scratch) / "two.html")
            picture(browser, two, "light", options.images / "report_compare.png")
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
