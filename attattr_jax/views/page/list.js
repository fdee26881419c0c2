  // ---- The order of the list ----

  const briefs = new Map(); // of each text what the list is ordered by; read when first asked for
  function briefOf(at) {
    if (!briefs.has(at)) {
      const { importance, layers, probabilities, predicted, disagreement, top_pairs, tokens } = JSON.parse(blocks[at].textContent);
      const certainty = probabilities[predicted] ?? null;
      briefs.set(at, { importance, layers, certainty, disagreement, tokens, pairs: top_pairs });
    }
    return briefs.get(at);
  }

  // The largest attribution of the chosen head, of the chosen layer's heads, or of all.
  function headValue(brief) {
    if (!brief.importance) return null;
    if (state.layer === null) return Math.max(...brief.importance.flat());
    const of = brief.importance[brief.layers.indexOf(example.layers[state.layer])];
    return of === undefined ? null : state.head === null ? Math.max(...of) : (of[state.head] ?? null);
  }

  // The names of the chosen pair of tokens, by default of the strongest one; kept while other texts are opened.
  function chosenPair() {
    const found = matrix("attribution");
    if (!state.pair && found) state.pair = namesOfPair(strongestPairs(found)[0]);
    return state.pair;
  }
  const namesOfPair = (pair) => pair?.slice(0, 2).map((at) => example.tokens[groups()[at][0]]) ?? null;

  function pairValue(brief) {
    const pair = chosenPair();
    const values = pair ? brief.pairs.filter(([i, j]) => brief.tokens[i] === pair[0] && brief.tokens[j] === pair[1]).map(([, , value]) => value) : [];
    return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
  }

  // Texts without a value come last; of a pair they are not shown.
  const ORDERS = {
    given: null,
    certainty: { value: (brief) => brief.certainty, name: () => "p", rank: (value) => value },
    head: { value: headValue, name: () => (state.layer === null ? "largest of all heads" : `largest of ${selectionName()}`), rank: (value) => -value },
    pair: { value: pairValue, name: () => (chosenPair() ?? ["–", "–"]).join(" ← "), rank: (value) => -Math.abs(value), only: true },
    disagreement: { value: (brief) => brief.disagreement, name: () => "1 − rank correlation with attention", rank: (value) => -value },
  };

  function sortList() {
    const order = ORDERS[state.order];
    const values = buttons.map((_, at) => (order ? order.value(briefOf(at)) : null));
    const places = buttons.map((_, at) => at);
    const rank = (at) => (values[at] === null ? Infinity : order.rank(values[at]));
    if (order) places.sort((a, b) => (rank(a) === rank(b) ? a - b : rank(a) - rank(b)));
    byId("example-list").append(...places.map((at) => buttons[at].parentElement));
    buttons.forEach((button, at) => {
      button.querySelector(".order-value")?.remove();
      button.parentElement.toggleAttribute("data-unordered", Boolean(order?.only) && values[at] === null);
      if (order) button.append(make("span", { class: "quiet order-value" }, values[at] === null ? "–" : rounded(values[at], state.order === "pair")));
    });
    byId("order-name").textContent = order ? order.name() : "";
    filter();
  }

  const visibleButtons = () => [...byId("example-list").querySelectorAll("button")].filter((button) => !button.parentElement.hidden);

  function filter() {
    const wanted = byId("filter").value.trim().toLowerCase();
    const onlyWrong = byId("only-wrong")?.checked ?? false;
    for (const button of buttons) {
      const item = button.parentElement;
      const isMissed = !item.textContent.toLowerCase().includes(wanted) || (onlyWrong && !item.hasAttribute("data-wrong"));
      item.hidden = isMissed || item.hasAttribute("data-unordered");
    }
    const visible = visibleButtons();
    if (visible.length && !visible.includes(buttons[state.at])) visible.forEach((button, at) => (button.tabIndex = at ? -1 : 0));
  }

