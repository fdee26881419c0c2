  // ---- Parts of the page ----

  function showFacts() {
    const isOutput = example.output !== null;
    const predicted = isOutput ? example.output : example.probabilities[example.predicted];
    // The probability, or the output, is mostly F itself: said once.
    const isF = Math.abs(predicted - example.score) < 1e-4;
    const value = [...(isF ? [term("F", "F"), " = "] : []), predicted.toFixed(3)];
    const facts = [isOutput ? ["output", ...value] : ["predicted", isolated(example.predicted), " (p = ", ...value, ")"]];
    if (example.has_lists) facts[0] = ["predicted", isolated(example.prediction)];
    if (example.label !== null) facts.push(["label", isolated(example.label)]);
    if (example.explained !== example.predicted) facts.push(["explained", isolated(example.explained)]);
    if (!isF || example.has_lists) facts.push([term("F", "explained output F"), rounded(example.score, false)]);
    if (example.window !== null) facts.push(["of a longer text", isolated(example.window)]);
    if (example.num_cut_tokens) facts.push(["cut off at the model's length", `${example.num_cut_tokens} tokens`]);
    const texts = [example.text, example.text_pair].filter((text) => text !== null);
    const parts = example.sentence.map(([text, kind]) =>
      kind === "token" ? make("em", {}, isolated(text)) : kind === "class" ? make("strong", {}, isolated(text)) : text,
    );
    byId("facts").replaceChildren(
      ...texts.map((text) => make("p", { class: "sentence", dir: "auto" }, text)),
      ...(parts.length ? [make("p", { class: "summary" }, ...parts)] : []),
      make("dl", {}, ...facts.map(([name, ...value]) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value)))),
      ...example.rough.map((text) => make("p", { class: "rough" }, text)),
    );
    const swatch = (sign) => make("span", { class: `swatch ${sign}`, "aria-hidden": "true" });
    const what = example.output === null ? [" for ", make("strong", {}, isolated(example.explained))] : [" for a larger output"];
    const entry = (...content) => make("span", { class: "entry" }, ...content);
    byId("legend").replaceChildren(
      entry(swatch("positive"), " orange: speaks", ...what),
      entry(swatch("negative"), ` purple, dashed: against ${example.output === null ? "it" : "one"}`),
      entry(swatch("attention"), " green: ", term("attention", "attention")),
      entry("a ← b: ", term("reads", "a reads from b")),
    );
  }

  function showTokens() {
    const values = state.words ? example.words.token_attributions : example.token_attributions;
    const largest = values ? Math.max(...values.map(Math.abs)) : 0;
    const decimals = largest > 0 ? 2 - Math.floor(Math.log10(largest)) : 3;
    const special = specialOf();
    byId("tokens").replaceChildren(
      ...labels().map((label, at) => {
        const colour = diverging(values ? values[at] : 0, largest);
        const value = values && !special[at] ? fixed(values[at], Math.min(decimals, 4)) : "";
        const token = make(
          "button",
          { type: "button", class: values ? "token" : "token plain", "data-at": at, tabindex: at === (state.token ?? 0) ? 0 : -1, "aria-pressed": state.token === at },
          isolated(label),
          make("span", { class: "value" }, value || " "),
        );
        if (values) Object.assign(token.style, { background: css(colour), color: inkOn(colour) });
        return token;
      }),
    );
    const sum = values ? rounded(values.reduce((total, value) => total + value, 0)) : "";
    byId("tokens-note").textContent = values
      ? `Together ${sum}: F less what F is with ${example.token_baseline ?? "the baseline"} for every token that is not special. Choose a token to see its pairs only.`
      : "Not computed here: explain_texts and attribute.py do. Choose a token to see its pairs only.";
  }

  function showHeads() {
    const place = byId("heads");
    if (!example.importance) {
      place.replaceChildren(make("p", { class: "quiet" }, "Not saved (--save none)."));
      return;
    }
    const largest = Math.max(...example.importance.flat().map(Math.abs));
    const cell = (row, head, label, text) => {
      const isSelected = state.layer === row && state.head === head;
      const button = make(
        "button",
        { type: "button", class: head === null ? "whole" : "cell", "aria-label": label, title: row === null ? null : label, "data-term": row === null ? "all" : null, "aria-pressed": isSelected },
        text,
      );
      Object.assign(button.dataset, { row: row ?? "", head: head ?? "" });
      button.tabIndex = isSelected ? 0 : -1;
      if (head !== null) button.style.background = css(diverging(example.importance[row][head], largest));
      return make("td", {}, button);
    };
    const numbers = example.importance[0].map((_, head) => make("th", { scope: "col" }, `${head}`));
    place.replaceChildren(
      make(
        "table",
        { class: "heads", "aria-label": "layers by heads" },
        make("thead", {}, make("tr", {}, cell(null, null, example.sum_name, example.sum_name === "all layers and heads" ? "all layers" : "their sum"), ...numbers)),
        make(
          "tbody",
          {},
          ...example.importance.map((values, row) =>
            make(
              "tr",
              {},
              cell(row, null, `layer ${example.layers[row]}, all heads`, `layer ${example.layers[row]}`),
              ...values.map((value, head) => cell(row, head, `layer ${example.layers[row]}, head ${head}: ${rounded(value)}`, "")),
            ),
          ),
        ),
      ),
      make("div", { class: "scale diverging" }, make("span", {}, rounded(-largest)), make("i"), make("span", {}, rounded(largest))),
      make("p", { class: "quiet" }, "The largest of all pairs of the head, those with special tokens too. Choose a head or a layer to see its pairs."),
    );
  }

  function showPairs() {
    const found = matrix("attribution");
    const importance = state.head === null || !example.importance ? "" : ` Its largest attribution: ${rounded(example.importance[state.layer][state.head])}.`;
    const only = state.token === null ? "" : ` Only pairs with “${labels()[state.token]}” (${state.token}).`;
    byId("selection").textContent = `Of ${selectionName()}.${importance}${only}${found ? leftOutOf(found) : " " + whyNot()}`;
    const attention = matrix("attention");
    const pairs = found ? strongestPairs(found) : [];
    const name = (at) => [isolated(shortened(labels()[at], 24)), make("span", { class: "quiet" }, ` ${at}`)];
    const withBars = pairs.length > 0;
    const attentionName = meanName() && attention ? "attention (mean)" : "attention";
    const heading = ["token", term("reads", "← reads from"), term("attribution", "attribution"), "share of largest"];
    if (attention) heading.push(term("attention", attentionName));
    if (withBars) heading.push("");
    let rows = pairs.map(([i, j, value]) => {
      const numbers = [fixed(value, found.decimals), fixed(value / found.largest, 2)];
      if (attention) numbers.push(fixed(attention.values[i * attention.size + j], attention.decimals, false));
      const row = make("tr", { "data-from": i, "data-to": j }, make("td", {}, ...name(i)), make("td", {}, "← ", ...name(j)));
      const bar = make("i");
      bar.style.width = `${100 * Math.abs(value / pairs[0][2])}%`;
      bar.style.background = value < 0 ? "var(--negative)" : "var(--positive)";
      row.append(
        ...numbers.map((text) => make("td", { class: "number" }, text)),
        make("td", { class: "bars" }, make("span", { class: "bar" }, bar)),
      );
      row.addEventListener("click", () => {
        setCell(i, j);
        state.pair = namesOfPair([i, j]);
        if (state.order === "pair") sortList();
      });
      return row;
    });
    if (!found && example.listed_pairs.length && state.layer === null && !state.words) {
      rows = example.listed_pairs.slice(0, state.count).map(([i, j, value]) =>
        make("tr", {}, make("td", {}, ...name(i)), make("td", {}, "← ", ...name(j)), make("td"), make("td", { class: "number" }, fixed(value, 2))),
      );
    }
    byId("pairs").replaceChildren(
      make("thead", {}, make("tr", {}, ...heading.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows),
    );
    showArcs(pairs, found);
  }

  // The strongest of the pairs that are left out, so that nobody takes what is listed for all there is.
  function leftOutOf(found) {
    if (state.special) return "";
    const special = specialOf();
    if (!pairsOf(found, false).length) return state.token === null ? " There are none without special tokens." : "";
    const out = pairsOf(found, true, Infinity).find(([i, j]) => special[i] || special[j]);
    if (!out) return "";
    const [reader, source] = out.map((at) => shortened(labels()[at] ?? "", 24));
    return ` Pairs with special tokens are left out, the strongest of them ${reader} ← ${source} (${fixed(out[2], found.decimals)}).`;
  }

  function whyNot() {
    if (example.is_reduced) return "These matrices are not there: the result was reduced to the largest value of each head.";
    if (!example.is_saved) return "These matrices were not saved: run attribute.py with --save full.";
    return "These matrices are not in this page, to keep it small: its end says what helps.";
  }

  function showConvergence() {
    const isJoint = example.path === "joint";
    const rows = example.convergence_deltas.map((delta, at) => [
      isJoint ? "all together" : `layer ${example.layers[at]}`,
      rounded(example.baseline_scores[at], false),
      rounded(delta),
      example.relative_deltas ? rounded(example.relative_deltas[at], false) : "–",
      example.error_estimates ? rounded(example.error_estimates[at] ?? Infinity, false) : "–",
      isJoint ? `${Math.max(...example.n_steps)}` : `${example.n_steps[at]}`,
      example.converged === null ? "–" : example.converged[at] ? "yes" : "no",
    ]);
    const heading = ["", "F without its attention", term("delta", "convergence delta δ"), "relative to Σ|attribution|", term("error", "estimated error"), "steps", "within tolerance"];
    byId("convergence").replaceChildren(
      make("thead", {}, make("tr", {}, ...heading.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.map(([name, ...rest]) => make("tr", {}, make("th", { scope: "row" }, name), ...rest.map((text) => make("td", { class: "number" }, text))))),
    );
  }

