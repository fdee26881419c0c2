  // ---- Two texts beside each other ----

  // Which positions of two lists of labels belong together: [i, j], null where one has no counterpart. What both have
  // in the same order is found as their longest common subsequence; of what is between, one stands for the other.
  function aligned(a, b) {
    const common = Array.from({ length: a.length + 1 }, () => new Int32Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    const columns = [];
    let [i, j, onlyA, onlyB] = [0, 0, [], []];
    const pairUp = () => {
      for (let at = 0; at < Math.max(onlyA.length, onlyB.length); at++) columns.push([onlyA[at] ?? null, onlyB[at] ?? null]);
      [onlyA, onlyB] = [[], []];
    };
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) {
        pairUp();
        columns.push([i++, j++]);
      } else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) onlyA.push(i++);
      else onlyB.push(j++);
    }
    pairUp();
    return columns;
  }

  let asked = 0;
  async function showComparison() {
    const section = byId("comparison");
    const number = ++asked;
    section.hidden = state.with === null;
    if (section.hidden) return;
    const first = example;
    const other = await load(state.with);
    if (number !== asked || first !== example) return; // another was chosen meanwhile
    const columns = aligned(labels(), labels(other));
    const target = first.explained === other.explained ? "" : ` The first is explained for ${first.explained}, the second for ${other.explained}.`;
    byId("comparison-note").textContent = `A: this text, F = ${rounded(first.score, false)}; B: F = ${rounded(other.score, false)}.${target} Colours are on one scale.`;
    byId("comparison-text").replaceChildren(isolated(other.text_pair === null ? other.text : `${other.text} | ${other.text_pair}`));
    compareTokens(other, columns);
    compareHeads(other);
    comparePairs(other, columns);
  }

  function compareTokens(other, columns) {
    const [valuesA, valuesB] = [example, other].map((one) => (state.words ? one.words : one).token_attributions);
    const largest = Math.max(0, ...[...(valuesA ?? []), ...(valuesB ?? [])].map(Math.abs));
    const chip = (names, values, at) => {
      if (at === null) return make("span", { class: "chip absent" }, "–");
      const made = make("span", { class: "chip" }, isolated(names[at]), make("span", { class: "value" }, values ? rounded(values[at]) : ""));
      const colour = diverging(values ? values[at] : 0, largest);
      Object.assign(made.style, { background: css(colour), color: inkOn(colour) });
      return made;
    };
    const [namesA, namesB] = [labels(), labels(other)];
    byId("comparison-tokens").replaceChildren(
      make("span", { class: "column" }, make("span", { class: "chip absent" }, "A"), make("span", { class: "chip absent" }, "B")),
      ...columns.map(([i, j]) => {
        const isSame = i !== null && j !== null && namesA[i] === namesB[j];
        return make("span", { class: isSame ? "column" : "column differs" }, chip(namesA, valuesA, i), chip(namesB, valuesB, j));
      }),
    );
  }

  // Importance of each head in the first text less that in the other.
  function compareHeads(other) {
    const place = byId("comparison-heads");
    const isAlike = example.importance && other.importance && `${example.layers}` === `${other.layers}` && example.importance[0].length === other.importance[0].length;
    if (!isAlike) {
      place.replaceChildren(make("p", { class: "quiet" }, "Heads are compared where both texts have the same layers and heads."));
      return;
    }
    const differences = example.importance.map((of, row) => of.map((value, head) => value - other.importance[row][head]));
    const largest = Math.max(...differences.flat().map(Math.abs));
    const cell = (value, row, head) => {
      const name = `layer ${example.layers[row]}, head ${head}: A − B = ${rounded(value)}`;
      const made = make("span", { class: "cell", title: name, role: "img", "aria-label": name });
      made.style.background = css(diverging(value, largest));
      return make("td", {}, made);
    };
    place.replaceChildren(
      make(
        "table",
        { class: "heads", "aria-label": "difference of heads" },
        make("thead", {}, make("tr", {}, make("th"), ...differences[0].map((_, head) => make("th", { scope: "col" }, `${head}`)))),
        make("tbody", {}, ...differences.map((of, row) => make("tr", {}, make("th", { scope: "row" }, `layer ${example.layers[row]}`), ...of.map((value, head) => cell(value, row, head))))),
      ),
      make("div", { class: "scale diverging" }, make("span", {}, `B larger ${rounded(-largest)}`), make("i"), make("span", {}, `${rounded(largest)} A larger`)),
    );
  }

  function comparePairs(other, columns) {
    const [a, b] = [matrix("attribution"), readMatrix("attribution", other)];
    if (!a || !b) {
      byId("comparison-pairs").replaceChildren(make("caption", { class: "quiet" }, "The pairs of both texts are not in this page."));
      return;
    }
    const [specialA, specialB] = [specialOf(), specialOf(other)];
    const isSpecial = ([i, j]) => (i === null ? specialB[j] : specialA[i]);
    const shown = columns.filter((column) => state.special || !isSpecial(column));
    const value = (found, i, j) => (i === null || j === null ? null : found.values[i * found.size + j]);
    const rows = [];
    for (const to of shown)
      for (const from of shown) {
        const [x, y] = [value(a, to[0], from[0]), value(b, to[1], from[1])];
        const difference = (x ?? 0) - (y ?? 0);
        if (difference) rows.push([to, from, x, y, difference]);
      }
    rows.sort((one, two) => Math.abs(two[4]) - Math.abs(one[4]));
    const [namesA, namesB] = [labels(), labels(other)];
    const name = ([i, j]) => {
      const names = [i === null ? null : namesA[i], j === null ? null : namesB[j]].filter((each) => each !== null);
      return [...new Set(names)].flatMap((text, at) => [at ? " / " : "", isolated(shortened(text, 20))]);
    };
    const decimals = Math.min(a.decimals, b.decimals);
    const number = (each, places) => make("td", { class: "number" }, each === null ? "–" : fixed(each, places));
    byId("comparison-pairs").replaceChildren(
      make("caption", { class: "quiet" }, `Pairs of ${selectionName()}, the largest difference first`),
      make("thead", {}, make("tr", {}, ...["token", "← reads from", "A", "B", "A − B"].map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.slice(0, state.count).map(([to, from, x, y, difference]) =>
        make("tr", {}, make("td", {}, ...name(to)), make("td", {}, "← ", ...name(from)), number(x, a.decimals), number(y, b.decimals), number(difference, decimals)),
      )),
    );
  }

