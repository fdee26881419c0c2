"""Measure the report: bytes and milliseconds per sentence, memory, how fast the page answers.

    python benchmarks/report.py --checkpoint runs/demo --runs runs/report \\
        --output benchmarks/results/report.json

Explains shipped reviews. --runs keeps what attribute.py writes: a folder that is already there is
used, not made again. Needs Chromium and its driver; the numbers on the page are compared with the
stored arrays.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import browser as browser_driver
import numpy as np
from pruning import make

import attattr_jax as aa
from attattr_jax.data.splits import load_split
from attattr_jax.explanations.explanation import Explanations
from attattr_jax.views.report import write_report

ROUNDS = 5
SENTENCES = 20
LONG_TOKENS = 200


class Repeated(Explanations):
    """The same stored examples over and over, read from disk each time."""

    def __init__(self, stored, count):
        super().__init__([])
        self.stored, self.count = stored, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.stored[index % len(self.stored)]


def sizes_and_times(stored, scratch: Path) -> dict:
    """Return bytes and milliseconds per sentence of the report of the twenty."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        written = write_report(stored, scratch / "report.html")
        times.append(1e3 * (time.perf_counter() - start) / len(stored))
    fixed = write_report(stored[:1], scratch / "one.html", max_megabytes=1e-6).num_bytes
    return {
        "sentences": len(stored),
        "mean_tokens": statistics.mean(len(one.tokens) for one in stored),
        "bytes": written.num_bytes,
        "left_out": written.left_out,
        "bytes_of_a_page_without_matrices": fixed,
        "bytes_per_sentence": (written.num_bytes - fixed) / len(stored),
        # The first one reads the template
        "milliseconds_per_sentence": statistics.median(times[1:]),
    }


def peak_memory(stored, scratch: Path) -> dict:
    """Return the most memory in MB, of Python and NumPy, that writing a report of so many sentences
    takes.
    """
    found = {}
    for count in (SENTENCES, 1000):
        tracemalloc.start()
        written = write_report(
            Repeated(stored, count), scratch / "many.html", max_examples=count, max_megabytes=1000
        )
        found[str(count)] = {
            "peak_mb": tracemalloc.get_traced_memory()[1] / 1e6,
            "report_mb": written.num_bytes / 1e6,
        }
        tracemalloc.stop()
    return found


def milliseconds(page, script: str) -> float:
    """Return how long it takes from a click until what it changes has been painted."""
    waiting = """const done = arguments[0], start = performance.now();
    (() => {%s})();
    (async () => {
      await new Promise((r) => setTimeout(r, 0));
      for (let quiet = 0; quiet < 2; )
        quiet += await new Promise((r) => requestAnimationFrame(() => r(1)));
      done(performance.now() - start);
    })();"""
    return page.browser.execute_async_script(waiting % script)


def answers(browser, file: Path) -> dict:
    """Return the milliseconds until the page has answered to what a reader does; medians."""
    loads, found = [], {}
    for _ in range(ROUNDS):
        browser.get("about:blank")
        start = time.perf_counter()
        browser.get(file.as_uri())
        page = browser_driver.Page(browser)
        loads.append(1e3 * (time.perf_counter() - start))
        for name, script in {
            "choose a head": "document.querySelectorAll('#heads .cell')[30].click()",
            "choose a layer": "document.querySelectorAll('#heads .whole')[3].click()",
            "words on": "document.getElementById('words').click()",
            "words off": "document.getElementById('words').click()",
            "choose a token": "document.querySelectorAll('.token')[5].click()",
            "60 pairs": (
                "const s = document.getElementById('count'); s.value = 60; s.dispatchEvent(new"
                " Event('input'))"
            ),
            "move in a matrix": (
                "document.getElementById('attribution').dispatchEvent(new KeyboardEvent('keydown',"
                " {key: 'ArrowDown'}))"
            ),
            "choose another text": "document.querySelectorAll('#example-list button')[1].click()",
        }.items():
            found.setdefault(name, []).append(milliseconds(page, script))
    return {"open": statistics.median(loads)} | {
        name: statistics.median(times) for name, times in found.items()
    }


def numbers_on_screen(browser, file: Path, stored) -> dict:
    """Compare numbers shown for every text with the stored arrays: how many, and the worst
    difference in units of the last digit.
    """
    random = np.random.default_rng(0)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(file.as_uri())
    page = browser_driver.Page(browser)
    differences = []
    for index, one in enumerate(stored):
        page.open(index)
        num_layers, num_heads, num_tokens = one.attributions.shape[:3]
        for layer in range(num_layers):
            head = int(random.integers(num_heads))
            page.select(layer, head)
            i, j = random.integers(num_tokens, size=2).tolist()
            matrices = one.attributions[layer, head], one.attention_probs[layer, head]
            for shown, matrix in zip(page.point_at(i, j), matrices, strict=True):
                differences.append(
                    abs(browser_driver.number(shown) - float(matrix[i, j]))
                    / browser_driver.unit(shown)
                )
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    return {
        "numbers": len(differences),
        "worst_difference_in_units_of_the_last_digit": max(differences),
        "console_messages": len(browser.get_log("browser")),
        "requests_but_for_the_page": len(
            [url for url in requested - {file.as_uri()} if not url.startswith("blob:")]
        ),
    }


def main() -> None:
    """Run what is missing, measure, and write the result file and the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--runs", required=True, type=lambda name: Path(name).resolve())
    parser.add_argument("--output", required=True, type=Path)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    twenty, long = (options.runs / name for name in ("reviews-20", "reviews-long"))
    common = ("--checkpoint", options.checkpoint)
    run_twenty = make(
        twenty, "attribute.py", *common, "--dataset", "reviews", "--max_examples", SENTENCES
    )
    sentences = load_split("reviews", "validation").texts
    words, tokenizer = (
        " ".join(sentences[:40]).split(),
        aa.load_classifier(options.checkpoint).tokenizer,
    )
    count = next(
        at
        for at in range(len(words))
        if len(tokenizer(" ".join(words[: at + 1]))["input_ids"]) > LONG_TOKENS
    )
    make(long, "attribute.py", *common, "--text", " ".join(words[:count]))
    stored, (long_one,) = aa.load_attributions(twenty), aa.load_attributions(long)

    result = {"machine": platform.processor() or platform.machine(), "rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        result["report_of_20"] = sizes_and_times(stored, scratch)
        page = scratch / "report.html"
        result["report_of_20"]["attribution_seconds"] = run_twenty["wall_seconds"]
        result["peak_memory"] = peak_memory(stored, scratch)
        hundred = write_report(Repeated(aa.load_attributions(long), 100), scratch / "hundred.html")
        result["report_of_100_long"] = {
            "tokens": len(long_one.tokens),
            "bytes": hundred.num_bytes,
            "left_out": hundred.left_out,
        }
        browser = browser_driver.start(scratch / "profile")
        try:
            result["milliseconds_to_answer"] = {
                f"{SENTENCES} sentences": answers(browser, page),
                f"100 texts of {len(long_one.tokens)} tokens": answers(browser, hundred.file),
            }
            result["numbers_on_screen"] = numbers_on_screen(browser, page, stored)
        finally:
            browser.quit()

    options.output.write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
