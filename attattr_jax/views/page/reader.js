  // ---- What the reader does ----

  function showSelected() {
    showPairs();
    showMaps();
    showComparison();
  }

  function showAll() {
    showFacts();
    showTokens();
    showHeads();
    showLastStep();
    showTree();
    showConvergence();
    showSelected();
  }

  let wanted = 0;
  // Opens a text, with the layer and head of an address, [layer, head] by the model's numbers, or with those that are shown.
  async function open(at, chosen = null) {
    wanted = at;
    const loaded = await load(at);
    if (wanted !== at) return; // another was chosen meanwhile
    if (state.order !== "pair") state.pair = null;
    const shown = [example && state.layer !== null ? example.layers[state.layer] : null, state.head];
    example = loaded; // only now: until here, whatever happens belongs to the one before
    const [layer, head] = chosen ?? shown;
    const row = example.importance ? example.layers.indexOf(layer) : -1;
    const hasHead = row >= 0 && head !== null && head < example.importance[0].length;
    Object.assign(state, { at, token: null, cell: null, layer: row < 0 ? null : row, head: hasHead ? head : null });
    buttons.forEach((button, each) => {
      button.toggleAttribute("aria-current", each === at);
      button.tabIndex = each === at ? 0 : -1;
    });
    showAll();
    if (byId("with")) Object.assign(byId("with"), { value: state.with ?? "" });
    if (byId("order")) byId("order").value = state.order;
    remember();
  }

  function select(layer, head) {
    Object.assign(state, { layer, head });
    showHeads();
    showSelected();
    byId("heads").querySelector('[aria-pressed="true"]')?.focus();
    if (state.order === "head") sortList();
    remember();
  }

  function setCell(i, j) {
    state.cell = [i, j];
    for (const kind of ["attribution", "attention"]) outlineCell(byId(kind));
    showReadout();
  }

  function chooseToken(token) {
    state.token = state.token === token ? null : token;
    showTokens();
    showPairs();
    byId("tokens").querySelector('[tabindex="0"]')?.focus();
  }

  const numberOf = (at) => Number(buttons[at].querySelector(".number").textContent);
  // A page made to compare two texts opens with the second beside the first.
  const preset = () => ("compares" in document.body.dataset && !location.hash ? 1 : null);

  // The address says what is shown, so that it can be sent to somebody.
  function remember() {
    const parts = [`text=${example.index}`];
    if (state.layer !== null) parts.push(`layer=${example.layers[state.layer]}`);
    if (state.head !== null) parts.push(`head=${state.head}`);
    if (state.order !== "given") parts.push(`order=${state.order}`);
    if (state.with !== null) parts.push(`with=${numberOf(state.with)}`);
    try {
      if (window.top === window) history.replaceState(null, "", `#${parts.join("&")}`);
    } catch {
      // a page inside another has no address
    }
  }

  async function recall() {
    const address = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^\d+$/.test(address.get(name) ?? "") ? Number(address.get(name)) : null);
    const text = Math.max(0, buttons.findIndex((_, at) => numberOf(at) === number("text")));
    // Two explanations of one text, as by a model and its pruned one, have the same number.
    const other = buttons.findIndex((_, at) => at !== text && numberOf(at) === number("with"));
    state.order = address.get("order") in ORDERS ? address.get("order") : "given";
    state.with = other < 0 || !byId("with") ? preset() : other;
    await open(text, [number("layer"), number("head")]);
    if (example) sortList();
  }

  // Arrow keys among the elements of a group: returns the new place.
  function moved(key, at, count) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -count, End: count };
    return key in steps ? Math.min(count - 1, Math.max(0, at + steps[key])) : null;
  }

  byId("example-list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(Number(button.dataset.at));
  });
  byId("example-list").addEventListener("keydown", (event) => {
    const visible = visibleButtons();
    const next = moved(event.key, visible.indexOf(document.activeElement), visible.length);
    if (next === null) return;
    event.preventDefault();
    visible[next].focus();
    open(Number(visible[next].dataset.at));
  });

  byId("filter").addEventListener("input", filter);
  byId("only-wrong")?.addEventListener("change", filter);
  byId("order")?.addEventListener("change", (event) => {
    state.order = event.target.value;
    sortList();
    remember();
  });
  byId("with")?.addEventListener("change", (event) => {
    state.with = event.target.value === "" ? null : Number(event.target.value);
    showComparison();
    remember();
  });

  byId("words").addEventListener("change", (event) => {
    state.words = event.target.checked;
    state.token = state.cell = null;
    showAll();
  });
  byId("special").addEventListener("change", (event) => {
    state.special = event.target.checked;
    showPairs();
    showComparison();
  });
  byId("count").addEventListener("input", (event) => {
    state.count = Number(event.target.value);
    byId("count-shown").textContent = state.count;
    showPairs();
    showComparison();
  });

  byId("tokens").addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) chooseToken(Number(token.dataset.at));
  });
  byId("tokens").addEventListener("keydown", (event) => {
    const tokens = [...byId("tokens").children];
    const next = moved(event.key, tokens.indexOf(document.activeElement), tokens.length);
    if (next === null) return;
    event.preventDefault();
    tokens.forEach((token, at) => (token.tabIndex = at === next ? 0 : -1));
    tokens[next].focus();
  });

  byId("heads").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { row, head } = button.dataset;
    select(row === "" ? null : Number(row), head === "" ? null : Number(head));
  });
  byId("heads").addEventListener("keydown", (event) => {
    const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    if (!(event.key in steps) || !example.importance) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    const row = Math.min(example.importance.length - 1, Math.max(-1, (state.layer ?? -1) + down));
    const head = Math.min(example.importance[0].length - 1, Math.max(-1, (state.head ?? -1) + right));
    select(row < 0 ? null : row, row < 0 || head < 0 ? null : head);
  });

  for (const kind of ["attribution", "attention"]) {
    const canvas = byId(kind);
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.found) return;
      const [j, i] = [event.offsetX, event.offsetY].map((at) => Math.floor((at - canvas.gutter) / canvas.cell));
      const isInside = i >= 0 && j >= 0 && i < canvas.found.size && j < canvas.found.size;
      if (isInside && (!state.cell || state.cell[0] !== i || state.cell[1] !== j)) setCell(i, j);
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
      if (!canvas.found || !(event.key in steps)) return;
      event.preventDefault();
      const cell = state.cell ?? [0, 0];
      const inside = (at) => Math.min(canvas.found.size - 1, Math.max(0, at));
      setCell(inside(cell[0] + steps[event.key][0]), inside(cell[1] + steps[event.key][1]));
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (!byId("tip").hidden) hideTip();
    else if (state.token !== null) chooseToken(state.token);
  });

  // A term's definition, which stands once in the page, beside whatever has the mouse or the focus.
  function showTip({ target }) {
    const element = target.closest?.("[data-term]");
    if (!element) return;
    const tip = byId("tip");
    tip.textContent = byId(`term-${element.dataset.term}`).textContent;
    tip.hidden = false;
    const box = element.getBoundingClientRect();
    const below = box.bottom + 6 + tip.offsetHeight < innerHeight || box.top < tip.offsetHeight + 6;
    tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
  }
  const hideTip = () => (byId("tip").hidden = true);
  for (const name of ["mouseover", "focusin"]) document.addEventListener(name, showTip);
  for (const name of ["mouseout", "focusout"]) document.addEventListener(name, hideTip);
  byId("example").addEventListener("scroll", hideTip);
  function recolour() {
    readPalette();
    if (example) showAll();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  // In a notebook: the frame around this page takes its height, and says whether the notebook is dark.
  if ("embedded" in document.documentElement.dataset) {
    addEventListener("message", ({ data, source }) => {
      if (source !== parent || !["light", "dark"].includes(data?.attattrScheme)) return;
      if (document.documentElement.dataset.scheme === data.attattrScheme) return;
      document.documentElement.dataset.scheme = data.attattrScheme;
      recolour();
    });
    new ResizeObserver(() => parent.postMessage({ attattrHeight: document.body.offsetHeight }, "*")).observe(document.body);
  }
  addEventListener("hashchange", recall);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(showMaps);
  });

  readPalette();
  state.words = byId("words").checked = false;
  recall();

