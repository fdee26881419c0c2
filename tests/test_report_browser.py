"""The report in a real browser: what is on the screen is what is in the arrays, and nothing is
loaded or run that should not be.

Needs Chromium and its driver (Debian: `apt-get install chromium chromium-driver`); without them
these tests are skipped.
"""

import json

import browser as browser_driver
import numpy as np
import pytest
from browser import Page, assert_shows, number, unit
from conftest import WORDS, make_tiny

import attattr_jax as aa
from attattr_jax.attribution.summaries.reductions import strongest_pairs
from attattr_jax.attribution.summaries.words import attention_between_words, sum_over_pieces
from attattr_jax.explanations.explanation import Explanation
from attattr_jax.views.report import write_report

pytest.importorskip("selenium")
pytestmark = pytest.mark.skipif(
    not browser_driver.is_there(), reason="no Chromium with its driver on this machine"
)

HOSTILE = (
    "\u05d8\u05d5\u05d1 \U0001f600 e\u0301 \u202efilm <img src=x onerror='document.title=1'>"
    " <script>document.title=2</script>"
)
SENTENCE = "the {} is {} and very good , but unwatchably dull ."
TEXTS = [
    SENTENCE.format(noun, word)
    for noun in ("film", "plot")
    for word in ("fine", "bad", "slow", "silly")
]
TEXTS += [
    HOSTILE,
    "good",
    *(
        f"{word} music"
        for word in "great cold poor warm sharp flat rich weak strong clever".split()
    ),
]


@pytest.fixture(scope="module")
def explained():
    """Twenty texts, some with words of several pieces."""
    tiny = make_tiny([*WORDS, "un", "##watch", "##ably"])
    labels = [index % 2 for index in range(len(TEXTS))]
    with pytest.warns(UserWarning, match="^1 of 20 texts longer than 32 tokens"):
        return aa.explain_texts(tiny, TEXTS, labels=labels, n_steps=4)


@pytest.fixture(scope="module")
def file(explained, tmp_path_factory):
    assert len(explained) == 20 and any(len(one.words) < len(one.tokens) for one in explained)
    return write_report(
        explained, tmp_path_factory.mktemp("page") / "report.html", max_examples=20
    ).file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser with a profile of its own."""
    driver = browser_driver.start(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, file):
    """The report, just opened."""
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own first page
    browser.get(file.as_uri())
    return Page(browser)


def test_nothing_is_loaded_and_nothing_complains(page, file):
    for index in range(20):
        page.open(index)
    assert page.browser.get_log("browser") == []
    events = [
        json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")
    ]
    urls = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert {url.partition("#")[0] for url in urls if not url.startswith("blob:")} == {file.as_uri()}


def test_model_with_one_output_has_no_probability_on_the_screen(
    browser, regression_folder, tmp_path
):
    (one,) = aa.explain_texts(
        aa.load_classifier(regression_folder), ["good film"], objective="logit", n_steps=3
    )
    browser.get(one.show(tmp_path / "report.html").as_uri())
    Page(browser)  # it is there
    facts = browser.execute_script("return document.querySelector('#facts dl').innerText").split()
    at = facts.index("output")
    assert facts[at + 1 :][:3] == ["F", "=", f"{one.logits['stars']:.3f}"]
    assert "predicted" not in facts
    assert browser.get_log("browser") == []


def test_every_choice_changes_what_is_shown_and_the_numbers_are_the_arrays(page, explained):
    random = np.random.default_rng(0)
    for index in (0, 3, 19):
        page.open(index)
        one = explained[index]
        assert (
            page.run(
                "return [...document.querySelectorAll('.token bdi')].map((token) =>"
                " token.textContent)"
            )
            == one.tokens
        )
        shown = page.run(
            "return [...document.querySelectorAll('.token .value')].map((value) =>"
            " value.textContent)"
        )
        for text, value, special in zip(
            shown, one.token_attributions, one.special_tokens_mask, strict=True
        ):
            assert (
                text == "\N{NO-BREAK SPACE}" or text == " "
                if special
                else abs(number(text) - value) <= 0.5001 * unit(text)
            )
        for row in range(2):
            for head in (None, int(random.integers(4))):
                page.select(row, head)
                values, probs = one.attributions[row], one.attention_probs[row]
                matrix = values.sum(axis=0) if head is None else values[head]
                attention = probs.mean(axis=0) if head is None else probs[head]
                for i, j in random.integers(len(one.tokens), size=(4, 2)).tolist():
                    attribution, probability = page.point_at(i, j)
                    assert_shows(attribution, matrix[i, j])
                    assert_shows(probability, attention[i, j])
                assert f"layer {row}" in page.text("#selection")
                if head is not None:
                    said = page.text("#selection").split("largest attribution: ")[1].split(". ")[0]
                    assert_shows(
                        said.rstrip("."),
                        one.array("head_importance")[row, head],
                    )


def test_small_numbers_are_shown_with_the_digits_there_are(browser, explained, tmp_path):
    one = explained[0]
    arrays = {
        name: one.array(name) * np.float32(1e-7 if name != "attention_probs" else 1)
        for name in one.array_names
    }
    page = write_report([Explanation(one.row, arrays)], tmp_path / "small.html").file
    browser.get(page.as_uri())
    page = Page(browser)
    page.select(0, 1)
    exponents = set()
    for (i, j), stored in np.ndenumerate(arrays["attributions"][0, 1, :6, :6]):
        shown = page.point_at(i, j)[0]
        assert ("e" in shown) == (number(shown) != 0)
        if "e" in shown:
            assert_shows(shown, stored)
            exponents.add(shown.partition("e")[2])
    assert len(exponents) > 1, "of different size"


def test_a_click_while_another_text_is_being_opened_mixes_nothing(page, explained):
    for meanwhile in (
        "document.querySelector('#heads .cell').click()",
        "dispatchEvent(new Event('resize'))",
    ):
        page.open(0)
        page.run(f"document.querySelectorAll('#example-list button')[5].click(); {meanwhile}")
        page.wait(lambda: page.text("#facts .sentence") == TEXTS[5])
        page.find("#heads .whole")[0].click()
        row = page.pairs()[0]
        assert_shows(row[2], explained[5].array("token_pairs")[row[0], row[1]])


def test_words_are_sums_of_their_pieces(page, explained):
    page.open(0)
    one = explained[0]
    tree = page.text("#tree")
    page.find("#words")[0].click()
    assert (
        page.run(
            "return [...document.querySelectorAll('.token bdi')].map((token) => token.textContent)"
        )
        == one.word_labels
    )
    assert page.text("#tree") != tree or len(one.tree().nodes) == len(one.tree(words=True).nodes)
    page.select(0, 1)
    attribution = sum_over_pieces(one.attributions[0, 1].astype(float), one.words, axes=(0, 1))
    attention = attention_between_words(one.attention_probs[0, 1].astype(float), one.words)
    merged = next(at for at, group in enumerate(one.words) if len(group) > 1)
    for i, j in ((merged, merged), (0, merged), (merged, 2), (1, 2)):
        shown = page.point_at(i, j)
        for text, stored in zip(shown, (attribution[i, j], attention[i, j]), strict=True):
            assert abs(number(text) - stored) <= unit(text), (
                "sums of rounded numbers: right to one in the last digit"
            )


def test_the_strongest_pair_is_two_clicks_away(page, explained):
    for index in (2, 11):
        page.open(index)  # the first click
        total = explained[index].array("token_pairs")
        special = explained[index].special_tokens_mask
        expected = strongest_pairs(total, 10, special)
        shown = page.pairs()
        i, j, _ = expected[0]
        assert shown[0][:2] == [i, j] and len(shown) == len(expected)
        for row in shown:
            assert_shows(row[2], total[row[0], row[1]])
            assert abs(number(row[3]) - total[row[0], row[1]] / np.abs(total).max()) < 0.0061
        assert {tuple(row[:2]) for row in shown[:5]} <= {pair[:2] for pair in expected[:6]}
        page.find("#pairs tbody tr")[0].click()  # the second shows it in the matrices
        assert_shows(page.text('#readout output[data-name="attribution"]'), total[i, j])


def test_the_slider_and_the_switch_choose_the_pairs(page, explained):
    page.open(0)
    special = {at for at, is_special in enumerate(explained[0].special_tokens_mask) if is_special}
    assert page.pairs() and not any(special & {*row[:2]} for row in page.pairs()), "left out"
    page.find("#special")[0].click()
    assert any(special & {*row[:2]} for row in page.pairs())
    page.run(
        "const slider = document.getElementById('count'); slider.value = 25;"
        " slider.dispatchEvent(new Event('input'))"
    )
    assert len(page.pairs()) == len(page.find("#arcs .arc")) == 25
    negative = sum(number(row[2]) < 0 for row in page.pairs())
    assert negative == len(page.find("#arcs .arc.negative")) > 0
    assert (
        page.run("return getComputedStyle(document.querySelector('.arc.negative')).strokeDasharray")
        != "none"
    )
    page.find("#tokens .token")[3].click()
    assert page.pairs() and all(3 in row[:2] for row in page.pairs())
    page.press("body", "ESCAPE")
    assert not all(3 in row[:2] for row in page.pairs())


def test_the_tree_is_that_of_the_arrays(page, explained):
    page.open(1)
    tree = explained[1].tree()
    shown = page.run(
        "return [...document.querySelectorAll('#tree [data-token]')].map((node) =>"
        " Number(node.dataset.token))"
    )
    assert shown == [node.token for node in tree.nodes] and len(page.find("#tree .edge")) == len(
        tree.edges
    )


def test_text_is_shown_and_never_run(page):
    index = TEXTS.index(HOSTILE)
    page.open(index)
    page.find("#words")[0].click()
    page.select(1, 2)
    assert (
        page.text("#facts .sentence") == HOSTILE and page.run("return document.images.length") == 0
    )
    assert page.browser.title == "Attention attribution"
    labels = page.run(
        "return [...document.querySelectorAll('.token bdi')].map((token) => token.textContent)"
    )
    assert {"\u05d8\u05d5\u05d1", "\U0001f600", "e\u0301", "<"} <= set(labels)
    assert (
        page.run("return getComputedStyle(document.querySelector('.token bdi')).unicodeBidi")
        == "isolate"
    )


def test_everything_is_reached_by_keys(page):
    page.press("#example-list [aria-current]", "ARROW_DOWN", "ARROW_DOWN")
    page.wait(lambda: page.text("#facts .sentence") == TEXTS[2])
    page.press('#heads [tabindex="0"]', "ARROW_DOWN")
    assert "layer 0, all heads" in page.text("#selection")
    page.press('#heads [tabindex="0"]', "ARROW_RIGHT")
    page.press('#heads [tabindex="0"]', "ARROW_DOWN")
    assert "layer 1, head 0" in page.text("#selection")
    page.press("#attribution", "ARROW_DOWN", "ARROW_RIGHT", "ARROW_RIGHT")
    assert "(1) reads from" in page.text("#readout")
    page.press('.token[tabindex="0"]', "ARROW_RIGHT", "ENTER")
    assert "Only pairs with “the” (1)" in page.text("#selection")


def test_an_address_leads_back(browser, file, page):
    page.open(4)
    page.select(1, 3)
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    again = Page(browser)
    again.wait(lambda: "layer 1, head 3" in again.text("#selection"))
    assert again.text("#facts .sentence") == TEXTS[4]


def test_the_address_is_what_is_shown(browser, file, page):
    def opened(address, sentence, selection):
        page.wait(
            lambda: (
                page.text("#facts .sentence") == sentence
                and f"Of {selection}." in page.text("#selection")
            )
        )
        page.wait(lambda: browser.current_url == f"{file.as_uri()}#{address}")

    everything = "all layers and heads"
    browser.get("about:blank")
    browser.get(f"{file.as_uri()}#text=2&layer=1&head=3")
    opened("text=2&layer=1&head=3", TEXTS[2], "layer 1, head 3")
    browser.refresh()
    opened("text=2&layer=1&head=3", TEXTS[2], "layer 1, head 3")
    page.open(5)  # a reader goes on with the same head
    opened("text=5&layer=1&head=3", TEXTS[5], "layer 1, head 3")
    for address, shown, sentence, selection in (
        ("text=6", "text=6", TEXTS[6], everything),
        ("text=6&layer=0", "text=6&layer=0", TEXTS[6], "layer 0, all heads"),
        ("text=3&layer=7&head=1", "text=3", TEXTS[3], everything),
        ("text=3&layer=1&head=9", "text=3&layer=1", TEXTS[3], "layer 1, all heads"),
        ("text=99&head=2", "text=0", TEXTS[0], everything),
    ):
        page.run("location.hash = arguments[0]", address)
        opened(shown, sentence, selection)
    page.select(0, 2)
    opened("text=0&layer=0&head=2", TEXTS[0], "layer 0, head 2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser, file, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get("about:blank")
    browser.get(file.as_uri())
    page = Page(browser)
    page.open(0)
    colours = page.run(
        """const known = (element) => { for (; element; element = element.parentElement) {
          const colour = getComputedStyle(element).backgroundColor;
          if (!colour.endsWith(", 0)")) return colour; } };
        const texts = document.querySelectorAll("p, dt, dd, h1, h2, label, td, th, .token," +
          " .token .value, #example-list button, .quiet");
        return [...texts].filter((text) => text.textContent.trim())
          .map((text) => [getComputedStyle(text).color, known(text)])"""
    )
    background = {tuple(colour) for _, colour in colours}
    assert len(colours) > 100 and background
    for pair in {tuple(pair) for pair in colours}:
        lighter, darker = sorted((luminance(colour) for colour in pair), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"WCAG 2 AA: {pair}"
    (surface,) = {luminance(page.run("return getComputedStyle(document.body).backgroundColor"))}
    assert (surface < 0.1) == (scheme == "dark")


def luminance(colour):
    channels = [
        int(part) / 255 for part in colour[colour.index("(") + 1 : -1].replace(",", " ").split()[:3]
    ]
    return np.dot(
        [0.2126, 0.7152, 0.0722],
        [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels],
    )


def listed(page):
    """Return the numbers of the texts in the list, as they are shown from the top."""
    return page.run(
        "return [...document.querySelectorAll('#example-list li')].filter((item) => !item.hidden)"
        ".map((item) => Number(item.querySelector('.number').textContent))"
    )


def order_by(page, name):
    page.run(
        "const order = document.getElementById('order'); order.value = arguments[0];"
        " order.dispatchEvent(new Event('change'))",
        name,
    )


def test_the_first_screen_says_what_decided_and_what_the_colours_mean(page, explained):
    page.open(3)
    one = explained[3]
    said = page.text("#facts .summary").replace("\N{MINUS SIGN}", "-")
    summary = one.summary().partition(". ")[2]
    assert said.lower() == summary.replace("“", "").replace("”", "").lower()
    legend = page.text("#legend")
    assert f"orange: speaks for {one.target}" in legend and "purple, dashed: against it" in legend
    assert "a ← b: a reads from b" in legend
    bottom = "return arguments[0].getBoundingClientRect().bottom"
    assert page.run(bottom, page.find("#legend")[0]) < 400
    page.run("document.getElementById('example').scrollTop = 600")
    assert 0 < page.run(bottom, page.find("#legend")[0]) < 100, "it stays"


def test_words_are_explained_where_they_stand(page):
    for element in page.find("[data-term]"):
        name = element.get_attribute("data-term")
        page.run("arguments[0].focus()", element)
        if page.run("return document.activeElement === arguments[0]", element):
            assert page.text("#tip") == page.text(f"#term-{name}") != ""
    page.press("body", "ESCAPE")
    assert page.run("return document.getElementById('tip').hidden")


def test_the_list_is_ordered_by_what_is_asked(page, explained, browser):
    page.open(0)
    importance = np.stack([one.array("head_importance") for one in explained])
    order_by(page, "head")
    assert listed(page) == np.argsort(-importance.max(axis=(1, 2)), kind="stable").tolist()
    page.select(1, 2)
    assert listed(page) == np.argsort(-importance[:, 1, 2], kind="stable").tolist()
    assert "order=head" in browser.current_url
    order_by(page, "certainty")
    probabilities = [one.probabilities[one.predicted] for one in explained]
    assert listed(page) == np.argsort(probabilities, kind="stable").tolist()
    page.select(1)
    page.find("#heads .whole")[0].click()
    order_by(page, "pair")
    page.find("#pairs tbody tr")[0].click()
    i, j = page.pairs()[0][:2]
    chosen = [explained[0].tokens[at] for at in (i, j)]
    having = {
        one.index
        for one in explained
        if any([one.tokens[p["from"]], one.tokens[p["to"]]] == chosen for p in one.token_pairs)
    }
    assert 0 in having and set(listed(page)) == having
    order_by(page, "given")
    assert listed(page) == list(range(20))
    assert browser.get_log("browser") == []


def test_disagreement_is_that_of_the_ranks(page, explained):
    order_by(page, "disagreement")
    first = listed(page)[0]
    shown = page.run(
        "return [...document.querySelectorAll('#example-list .order-value')]"
        ".map((value) => value.textContent)"
    )
    one = explained[first]
    real = [at for at, special in enumerate(one.special_tokens_mask) if not special]
    pairs = np.ix_(real, real)
    total, attention = np.abs(one.array("token_pairs")), one.attention_probs.mean(axis=(0, 1))
    ranks = [np.argsort(np.argsort(values[pairs].ravel())) for values in (total, attention)]
    assert number(shown[0]) == pytest.approx(1 - np.corrcoef(*ranks)[0, 1], abs=0.01)
    known = [number(value) for value in shown if value != "–"]
    assert known == sorted(known, reverse=True)


def test_two_texts_stand_beside_each_other(browser, explained, tmp_path):
    a, b = explained[0], explained[5]
    browser.get(aa.compare(a, b).show(tmp_path / "two.html").as_uri())
    page = Page(browser)
    page.wait(lambda: page.find("#comparison-pairs tbody tr"))
    columns = page.run(
        "return [...document.querySelectorAll('#comparison-tokens .column')].slice(1)"
        ".map((column) => [...column.querySelectorAll('.chip')].map((chip) =>"
        " chip.querySelector('bdi')?.textContent ?? null))"
    )
    for side, one in enumerate((a, b)):
        assert [column[side] for column in columns if column[side] is not None] == one.tokens
    same = [column for column in columns if column[0] == column[1]]
    assert len(same) >= min(len(a.tokens), len(b.tokens)) - 3, "they differ in two words"
    head = page.find("#comparison-heads .cell")[6].get_attribute("title")
    difference = a.array("head_importance")[1, 2] - b.array("head_importance")[1, 2]
    assert head.startswith("layer 1, head 2:")
    assert_shows(head.rpartition(" ")[2], difference)
    rows = page.run(
        "return [...document.querySelectorAll('#comparison-pairs tbody tr')].map((row) =>"
        " [...row.querySelectorAll('.number')].map((cell) => cell.textContent))"
    )
    sizes = [abs(number(row[2])) for row in rows]
    assert len(rows) == 10 and sizes == sorted(sizes, reverse=True)
    for row in rows:
        x, y = (0.0 if text == "–" else number(text) for text in row[:2])
        assert abs(number(row[2]) - (x - y)) <= 1.1 * max(unit(text) for text in row if text != "–")
    assert "with=5" in browser.current_url and browser.get_log("browser") == []

    browser.get("about:blank")
    browser.get(aa.compare(a, a).show(tmp_path / "same.html").as_uri())
    for _ in range(2):  # by a model and by another one: the same number in the address
        Page(browser).wait(lambda: page.text("#comparison-text") == a.text)
        assert not page.find("#comparison-pairs tbody tr"), "no difference"
        browser.refresh()


def test_an_address_keeps_order_and_comparison(browser, file, page):
    browser.get("about:blank")
    browser.get(f"{file.as_uri()}#text=4&order=certainty&with=7")
    page.wait(lambda: page.run("return !document.getElementById('comparison').hidden"))
    page.wait(lambda: page.text("#order-name") == "p")
    assert page.text("#comparison-text") == TEXTS[7] and page.text("#facts .sentence") == TEXTS[4]
    assert browser.current_url.endswith("#text=4&order=certainty&with=7")


def test_no_edge_of_a_tree_passes_a_box(page, explained):
    crossed = """
      const [svg, inside] = [document.getElementById("tree"), []];
      const boxes = [...svg.querySelectorAll(".node")].map((box) => box.getBBox());
      for (const edge of svg.querySelectorAll(".edge")) {
        const length = edge.getTotalLength();
        for (let at = 0; at <= length; at += 2) {
          const { x, y } = edge.getPointAtLength(at);
          if (boxes.some((box) => x > box.x && x < box.x + box.width
              && y > box.y + 1 && y < box.y + box.height - 1)) inside.push(edge.dataset.edge);
        }
      }
      return inside;"""
    num_edges = 0
    for index in range(8):
        page.open(index)
        assert page.run(crossed) == []
        num_edges += len(page.find("#tree .edge"))
    assert num_edges > 8


def test_the_last_step_is_that_of_the_first_token(page, explained):
    page.open(2)
    of_first = explained[2].attributions[-1].sum(axis=0, dtype=float)[0]
    above = [at for at in np.argsort(-of_first) if of_first[at] > 0.4 * of_first.max()]
    chips = page.run(
        "return [...document.querySelectorAll('#last-step bdi')].map((token) => token.textContent)"
    )
    assert chips == [explained[2].tokens[at] for at in [0, *above]]


def test_a_frame_in_a_notebook_is_as_high_as_its_page_and_as_light(browser, explained, tmp_path):
    for ground, scheme in (("white", "light"), ("#111", "dark")):
        file = tmp_path / f"{scheme}.html"
        file.write_text(
            f"<body style='background:{ground}'>{explained[:1]._repr_html_()}", encoding="utf-8"
        )
        browser.get(file.as_uri())
        frame = browser.find_element("css selector", "iframe")
        outer = "return arguments[0].clientHeight"
        browser.switch_to.frame(frame)
        page = Page(browser)
        page.wait(lambda: page.run("return document.documentElement.dataset.scheme") == scheme)  # noqa: B023
        content = page.run("return document.documentElement.scrollHeight")
        assert page.run("return document.querySelector('nav').offsetHeight") == 0, "of one text"
        browser.switch_to.default_content()
        assert content > 1000
        page.wait(lambda: abs(browser.execute_script(outer, frame) - content) <= 2)  # noqa: B023
