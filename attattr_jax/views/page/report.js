// The page's only script. Everything shown is put into text nodes and attributes, never parsed as HTML.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const blocks = [...document.querySelectorAll("script[data-example]")];
  const buttons = [...document.querySelectorAll("#example-list button")];
  const state = { at: 0, layer: null, head: null, words: false, special: document.getElementById("special").checked, count: 10, token: null, cell: null };
  let example = null; // the data of the example shown, with its matrices unpacked
  const unpacked = new Map(); // the last few, by number

  // ---- Elements ----

  function make(tag, attributes = {}, ...children) {
    const isDrawing = ["svg", "g", "path", "text", "rect", "line", "title"].includes(tag);
    const element = isDrawing ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // Text of users may be written from right to left: it stays within its own element.
  const isolated = (text) => make("bdi", {}, text);
  const shortened = (text, length = 16) => ([...text].length > length ? [...text].slice(0, length - 1).join("") + "…" : text);

  // ---- Numbers and colours ----

  function fixed(value, decimals, signed = true) {
    if (decimals > 6 && value !== 0) {
      // No more digits than there are decimals for.
      const digits = Math.max(0, decimals + Math.floor(Math.log10(Math.abs(value))));
      return (value < 0 ? "−" : signed ? "+" : "") + Math.abs(value).toExponential(digits);
    }
    const text = Math.abs(value).toFixed(Math.min(6, Math.max(0, decimals)));
    const isZero = Number(text) === 0;
    return (isZero ? "" : value < 0 ? "−" : signed ? "+" : "") + text;
  }

  // Three digits of a number that was stored in full.
  const rounded = (value, signed = true) =>
    Number.isFinite(value) && value !== 0 ? fixed(value, 2 - Math.floor(Math.log10(Math.abs(value))), signed) : "0";

  let palette = {};
  // The colours as they are in this scheme: of an element that has them.
  function readPalette() {
    const probe = document.body.appendChild(make("span"));
    for (const name of ["zero", "positive", "negative", "attention", "ink"]) {
      probe.style.color = `var(--${name})`;
      palette[name] = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
    }
    probe.remove();
  }
  const mixed = (from, to, share) => from.map((channel, at) => Math.round(channel + (to[at] - channel) * share));
  const css = (colour) => `rgb(${colour.join(" ")})`;
  function diverging(value, largest) {
    const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
    return mixed(palette.zero, value < 0 ? palette.negative : palette.positive, share);
  }
  const sequential = (value, largest) => mixed(palette.zero, palette.attention, largest > 0 ? Math.min(1, value / largest) : 0);
  // Black or white, whichever is read more easily on a colour (WCAG 2 relative luminance).
  function inkOn(colour) {
    const [r, g, b] = colour.map((channel) => ((channel /= 255) <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
  }

  // ---- An example's data ----

  async function load(at) {
    if (!unpacked.has(at)) {
      const data = JSON.parse(blocks[at].textContent);
      data.codes = await unpack(data.data);
      data.data = null;
      unpacked.set(at, data);
      if (unpacked.size > 3) unpacked.delete(unpacked.keys().next().value);
    }
    return unpacked.get(at);
  }

  async function unpack(text) {
    if (!text) return new Int16Array(0);
    const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = planes.length / 2;
    const codes = new Int16Array(count);
    for (let at = 0; at < count; at++) codes[at] = planes[at] | (planes[at + count] << 8);
    return codes;
  }

  const labels = () => (state.words ? example.words.labels : example.tokens);
  const groups = () => (state.words ? example.words.groups : example.tokens.map((_, at) => [at]));
  const areMerged = () => state.words && example.words.groups.length < example.tokens.length;
  const specialOf = () => groups().map((group) => example.special[group[0]] !== 0);

  // The matrix of what is selected: {values, size, decimals, largest}, or null where it is not in the page.
  let known = { key: null };
  function matrix(kind) {
    const key = [state.at, state.layer, state.head, state.words].join();
    if (known.key !== key) known = { key };
    if (!(kind in known)) known[kind] = readMatrix(kind);
    return known[kind];
  }

  function readMatrix(kind) {
    const numLayers = example.layers.length;
    const numHeads = example.importance ? example.importance[0].length : 0;
    const inPage = { heads: 1 + numLayers + numLayers * numHeads, layers: 1 + numLayers, sentence: 1, none: 0 }[example.detail];
    const row = state.layer;
    const place = row === null ? 0 : state.head === null ? 1 + row : 1 + numLayers + row * numHeads + state.head;
    const isAttention = kind === "attention";
    if (place >= inPage || (isAttention && example.decimals.attention === null)) return null;
    const numTokens = example.tokens.length;
    const start = (place + (isAttention ? inPage : 0)) * numTokens * numTokens;
    let decimals = isAttention ? example.decimals.attention : example.decimals.attribution[place];
    const scale = 10 ** -decimals;
    const merged = groups();
    const size = merged.length;
    const values = new Float64Array(size * size);
    merged.forEach((from, i) =>
      merged.forEach((to, j) => {
        let sum = 0;
        for (const a of from) for (const b of to) sum += example.codes[start + a * numTokens + b];
        values[i * size + j] = (isAttention ? sum / from.length : sum) * scale;
      }),
    );
    if (areMerged()) decimals -= 1; // sums of rounded numbers
    let largest = 0;
    for (const value of values) largest = Math.max(largest, Math.abs(value));
    return { values, size, decimals, largest };
  }

  // Pairs with special tokens are left out unless they are asked for, or there are no others.
  function strongestPairs(found) {
    const others = pairsOf(found, state.special);
    return others.length || state.special ? others : pairsOf(found, true);
  }

  function pairsOf(found, withSpecial) {
    const special = specialOf();
    const pairs = [];
    for (let i = 0; i < found.size; i++) {
      for (let j = 0; j < found.size; j++) {
        const value = found.values[i * found.size + j];
        if (value === 0 || (!withSpecial && (special[i] || special[j]))) continue;
        if (state.token !== null && state.token !== i && state.token !== j) continue;
        pairs.push([i, j, value]);
      }
    }
    return pairs.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]) || a[0] - b[0] || a[1] - b[1]).slice(0, state.count);
  }

  function selectionName() {
    if (state.layer === null) return example.sum_name;
    return `layer ${example.layers[state.layer]}` + (state.head === null ? ", all heads" : `, head ${state.head}`);
  }

  // What of attention is shown: of more than one head a mean.
  function meanName() {
    if (state.head !== null) return "";
    return state.layer === null ? "mean over layers and heads" : "mean over heads";
  }

  const term = (name, text) => make("span", { class: "term", tabindex: 0, "data-term": name, "aria-describedby": `term-${name}` }, text);

  // ---- Parts of the page ----

  function showFacts() {
    const facts = [
      example.output === null
        ? ["predicted", `${example.predicted} (p = ${example.probabilities[example.predicted].toFixed(3)})`]
        : ["output", example.output.toFixed(3)],
    ];
    if (example.label !== null) facts.push(["label", example.label]);
    if (example.target !== example.predicted) facts.push(["explained", example.target]);
    facts.push([term("F", "explained output F"), rounded(example.score, false)]);
    if (example.num_cut_tokens) facts.push(["cut off at the model's length", `${example.num_cut_tokens} tokens`]);
    const texts = [example.text, example.text_pair].filter((text) => text !== null);
    const parts = example.sentence.map(([text, kind]) =>
      kind === "token" ? make("em", {}, isolated(text)) : kind === "class" ? make("strong", {}, isolated(text)) : text,
    );
    byId("facts").replaceChildren(
      ...texts.map((text) => make("p", { class: "sentence", dir: "auto" }, text)),
      ...(parts.length ? [make("p", { class: "summary" }, ...parts)] : []),
      make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, isolated(value))))),
      ...example.rough.map((text) => make("p", { class: "rough" }, text)),
    );
    const swatch = (sign) => make("span", { class: `swatch ${sign}`, "aria-hidden": "true" });
    const what = example.output === null ? [" for ", make("strong", {}, isolated(example.target))] : [" for a larger output"];
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
    byId("tokens").replaceChildren(
      ...labels().map((label, at) => {
        const colour = diverging(values ? values[at] : 0, largest);
        const value = values && !specialOf()[at] ? fixed(values[at], Math.min(decimals, 4)) : "";
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
    byId("tokens-note").textContent = values
      ? "Choose a token to see its pairs only."
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
    );
  }

  function showPairs() {
    const found = matrix("attribution");
    const importance = state.head === null || !example.importance ? "" : ` Its largest attribution: ${rounded(example.importance[state.layer][state.head])}.`;
    const only = state.token === null ? "" : ` Only pairs with “${labels()[state.token]}” (${state.token}).`;
    const noOthers = found && !state.special && state.token === null && !pairsOf(found, false).length;
    const special = noOthers ? " There are none without special tokens." : "";
    byId("selection").textContent = `Of ${selectionName()}.${special}${importance}${only}${found ? "" : " " + whyNot()}`;
    const attention = matrix("attention");
    const pairs = found ? strongestPairs(found) : [];
    const name = (at) => [isolated(shortened(labels()[at], 24)), make("span", { class: "quiet" }, ` ${at}`)];
    const withBars = pairs.length > 0;
    const attentionName = meanName() && attention ? "attention (mean)" : "attention";
    const heading = ["token", term("reads", "← reads from"), term("attribution", "attribution"), "of largest"];
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
      row.addEventListener("click", () => setCell(i, j));
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

  function whyNot() {
    if (example.is_reduced) return "These matrices are not there: the result was reduced to the largest value of each head.";
    if (!example.is_saved) return "These matrices were not saved: run attribute.py with --save full.";
    return "These matrices are not in this page, to keep it small: its end says what helps.";
  }

  // Tokens twice: on the left those that read, at which arrows point; on the right what they read from. Of many tokens
  // only those with a pair.
  function showArcs(pairs, found) {
    const svg = byId("arcs");
    const height = 19, gap = 190, column = 120;
    const all = labels();
    const shown = all.length <= 24 ? all.map((_, at) => at) : [...new Set(pairs.flatMap(([i, j]) => [i, j]))].sort((a, b) => a - b);
    const line = new Map(shown.map((token, at) => [token, (at + 0.5) * height + 16]));
    const middle = column + gap / 2;
    const text = (token, x, anchor) =>
      make("text", { x, y: line.get(token) + 4, "text-anchor": anchor, class: state.token === token ? "chosen" : null }, shortened(all[token]));
    svg.setAttribute("viewBox", `0 0 ${2 * column + gap} ${shown.length * height + 24}`);
    svg.setAttribute("width", 2 * column + gap);
    svg.setAttribute("height", shown.length * height + 24);
    svg.replaceChildren(
      make("text", { x: column - 6, y: 11, "text-anchor": "end", class: "heading" }, "token"),
      make("text", { x: column + gap + 6, y: 11, class: "heading" }, "reads from"),
      ...shown.flatMap((token) => [text(token, column - 6, "end"), text(token, column + gap + 6, "start")]),
      ...[...pairs].reverse().flatMap(([i, j, value]) => {
        const share = Math.abs(value) / found.largest;
        const arc = make("path", {
          d: `M ${column + 7} ${line.get(i)} C ${middle} ${line.get(i)}, ${middle} ${line.get(j)}, ${column + gap} ${line.get(j)}`,
          class: value < 0 ? "arc negative" : "arc positive",
          "stroke-width": (1 + 6 * share).toFixed(2),
          "stroke-opacity": (0.35 + 0.65 * share).toFixed(2),
          "data-from": i,
          "data-to": j,
        });
        arc.append(make("title", {}, `${all[i]} (${i}) ← ${all[j]} (${j}): ${fixed(value, found.decimals)}`));
        const half = 3 + 3 * share;
        const head = make("path", {
          d: `M ${column - 1} ${line.get(i)} l 11 ${-half} v ${2 * half} z`,
          class: value < 0 ? "arrow negative" : "arrow positive",
        });
        return [arc, head];
      }),
    );
  }

  function showMaps() {
    for (const kind of ["attribution", "attention"]) drawMap(byId(kind), kind, matrix(kind));
    byId("attribution-caption").replaceChildren("attribution; a row's token ← what it reads from, the columns");
    byId("attention-caption").replaceChildren("attention probability", meanName() && `, ${meanName()}`);
    showReadout();
  }

  function drawMap(canvas, kind, found) {
    const figure = canvas.parentElement;
    canvas.found = found;
    figure.classList.toggle("empty", !found);
    canvas.setAttribute("aria-label", `${kind} of ${selectionName()}, token by token`);
    if (!found) return;
    const all = labels();
    const context = canvas.getContext("2d");
    const font = "12px system-ui, sans-serif";
    context.font = font;
    const names = all.map((label) => shortened(label, 14));
    const gutter = Math.min(120, 10 + Math.ceil(Math.max(...names.map((name) => context.measureText(name).width))));
    const width = byId("example").clientWidth;
    const room = Math.min(620, (width > 900 ? width / 2 : width) - gutter - 60);
    const cell = Math.max(2, Math.min(24, Math.floor(room / found.size)));
    const side = gutter + cell * found.size + 1;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.height = Math.ceil(side * ratio);
    canvas.style.width = canvas.style.height = `${side}px`;
    Object.assign(canvas, { gutter, cell });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);

    const image = new ImageData(found.size, found.size);
    found.values.forEach((value, at) => {
      const colour = kind === "attribution" ? diverging(value, found.largest) : sequential(value, found.largest);
      image.data.set([...colour, 255], 4 * at);
    });
    const small = new OffscreenCanvas(found.size, found.size);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, gutter, gutter, cell * found.size, cell * found.size);

    context.font = font;
    context.fillStyle = css(palette.ink);
    context.textBaseline = "middle";
    const every = Math.ceil(12 / cell);
    names.forEach((name, at) => {
      if (at % every) return;
      const middle = gutter + (at + 0.5) * cell;
      context.textAlign = "right";
      context.fillText(name, gutter - 5, middle);
      context.save();
      context.translate(middle, gutter - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(name, 0, 0);
      context.restore();
    });
    canvas.plain = new OffscreenCanvas(canvas.width, canvas.height);
    canvas.plain.getContext("2d").drawImage(canvas, 0, 0);
    outlineCell(canvas);
    const [low, high] = figure.querySelectorAll(".scale span");
    low.textContent = kind === "attribution" ? fixed(-found.largest, found.decimals) : "0";
    high.textContent = fixed(found.largest, found.decimals, kind === "attribution");
  }

  function outlineCell(canvas) {
    if (!state.cell || !canvas.found) return;
    const context = canvas.getContext("2d");
    const { gutter, cell, plain } = canvas;
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(plain, 0, 0);
    context.restore();
    context.strokeStyle = css(palette.ink);
    context.lineWidth = 2;
    context.strokeRect(gutter + state.cell[1] * cell, gutter + state.cell[0] * cell, cell, cell);
  }

  function showReadout() {
    const found = matrix("attribution");
    if (!found) {
      byId("readout").textContent = whyNot();
      return;
    }
    if (!state.cell) {
      byId("readout").textContent = `Rows read from columns; ${selectionName()}. Point at a cell, or use the arrow keys.`;
      return;
    }
    const [i, j] = state.cell;
    const attention = matrix("attention");
    const all = labels();
    const number = (name, text) => [`${name} `, make("output", { "data-name": name }, text)];
    byId("readout").replaceChildren(
      isolated(all[i]), ` (${i}) reads from `, isolated(all[j]), ` (${j}) in ${selectionName()}: `,
      ...number("attribution", fixed(found.values[i * found.size + j], found.decimals)),
      ...(attention ? [", ", ...number("attention", fixed(attention.values[i * attention.size + j], attention.decimals, false))] : []),
    );
  }

  function showTree() {
    const tree = state.words ? example.words.tree : example.tree;
    const svg = byId("tree");
    svg.replaceChildren();
    svg.toggleAttribute("hidden", !tree);
    if (!tree) {
      byId("tree-note").textContent = example.is_saved ? "A tree needs the attributions of all layers." : `There is no tree. ${whyNot()}`;
      return;
    }
    const all = labels();
    const names = new Map(tree.nodes.map(([token]) => [token, shortened(all[token])]));
    const column = Math.max(128, 24 + 8 * Math.max(...[...names.values()].map((name) => [...name].length)));
    const level = 84, half = 13;
    const columns = tree.nodes.map((node) => node[1]);
    const place = new Map(tree.nodes.map(([token, x, y]) => [token, [(x - Math.min(...columns) + 0.5) * column, y * level + 20]]));
    const width = (Math.max(...columns) - Math.min(...columns) + 1) * column + 50; // and the last label
    const height = Math.max(...tree.nodes.map((node) => node[2])) * level + 40;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const largest = Math.max(...tree.nodes.map((node) => node[5] ?? 0));
    const byStrength = tree.nodes.filter((node) => node[3] !== null).sort((a, b) => a[5] - b[5]);
    for (const [token, , , parent, , attribution] of byStrength) {
      const [x, y] = place.get(token), [px, py] = place.get(parent);
      // Below its parent's box, across in the gap between two levels, and down in the child's own column: whatever
      // stands in that column is below the child, and nothing of another branch stands between the two columns.
      const bend = py + half + 20, turn = Math.min(8, Math.abs(x - px) / 2) * Math.sign(x - px);
      const round = Math.abs(turn);
      svg.append(
        make("path", {
          d: `M ${px} ${py + half + 6} V ${bend - round} Q ${px} ${bend} ${px + turn} ${bend} H ${x - turn} Q ${x} ${bend} ${x} ${bend + round} V ${y - half}`,
          class: "edge",
          "data-edge": `${parent} ${token}`,
          "stroke-width": (1 + 3 * (largest > 0 ? attribution / largest : 0)).toFixed(2),
        }),
      );
    }
    for (const parent of new Set(byStrength.map((node) => node[3]))) {
      const [px, py] = place.get(parent);
      svg.append(make("path", { d: `M ${px} ${py + half} l -5 9 h 10 z`, class: "arrow positive" }));
    }
    for (const [token, , , , layer, attribution] of byStrength) {
      const [x, y] = place.get(token);
      svg.append(make("text", { x: x + 5, y: y - half - 8, class: "edge-name" }, `layer ${layer} ${rounded(attribution)}`));
    }
    for (const [token] of tree.nodes) {
      const [x, y] = place.get(token);
      const wide = column - 14;
      svg.append(
        make("rect", { x: x - wide / 2, y: y - half, width: wide, height: 2 * half, rx: 6, class: "node" }),
        make("text", { x, y: y + 5, "text-anchor": "middle", "data-token": token }, names.get(token)),
      );
    }
    byId("tree-note").textContent =
      `A token stands above those that it reads from, in the layer named. τ = ${tree.threshold}, λ = ${tree.penalty}; ` +
      `Σ attribution − λ · edges = ${rounded(tree.objective)}.`;
  }

  // The step that the tree leaves out: what the classifier's own token reads from in the last layer.
  function showLastStep() {
    const step = state.words ? example.words.last_step : example.last_step;
    const place = byId("last-step");
    if (!step || !step.edges.length) {
      place.replaceChildren();
      return;
    }
    const all = labels();
    place.replaceChildren(
      make("span", { class: "quiet" }, `Last step, to the token that the classifier reads (layer ${step.layer}; outside the paper's tree):`),
      make("span", { class: "chip" }, isolated(all[0])),
      "←",
      ...step.edges.slice(0, 8).map(([at, value]) =>
        make("span", { class: "chip" }, isolated(all[at]), make("span", { class: "value" }, rounded(value))),
      ),
      step.edges.length > 8 ? `and ${step.edges.length - 8} more` : "",
    );
  }

  function showConvergence() {
    const isJoint = example.path === "joint";
    const rows = example.convergence_deltas.map((delta, at) => [
      isJoint ? "all together" : `layer ${example.layers[at]}`,
      rounded(example.baseline_scores[at], false),
      rounded(delta),
      example.relative_deltas ? rounded(example.relative_deltas[at], false) : "–",
      isJoint ? `${Math.max(...example.n_steps)}` : `${example.n_steps[at]}`,
      example.converged === null ? "–" : example.converged[at] ? "yes" : "no",
    ]);
    const heading = ["", "F without its attention", term("delta", "convergence delta δ"), "relative to Σ|attribution|", "steps", "within tolerance"];
    byId("convergence").replaceChildren(
      make("thead", {}, make("tr", {}, ...heading.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.map(([name, ...rest]) => make("tr", {}, make("th", { scope: "row" }, name), ...rest.map((text) => make("td", { class: "number" }, text))))),
    );
  }

  // ---- What the reader does ----

  function showSelected() {
    showPairs();
    showMaps();
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
    remember();
  }

  function select(layer, head) {
    Object.assign(state, { layer, head });
    showHeads();
    showSelected();
    byId("heads").querySelector('[aria-pressed="true"]')?.focus();
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

  // The address says what is shown, so that it can be sent to somebody.
  function remember() {
    const parts = [`text=${example.index}`];
    if (state.layer !== null) parts.push(`layer=${example.layers[state.layer]}`);
    if (state.head !== null) parts.push(`head=${state.head}`);
    try {
      if (window.top === window) history.replaceState(null, "", `#${parts.join("&")}`);
    } catch {
      // a page inside another has no address
    }
  }

  async function recall() {
    const address = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^\d+$/.test(address.get(name) ?? "") ? Number(address.get(name)) : null);
    const at = buttons.findIndex((button) => Number(button.querySelector(".number").textContent) === number("text"));
    await open(Math.max(0, at), [number("layer"), number("head")]);
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
    const visible = buttons.filter((button) => !button.parentElement.hidden);
    const next = moved(event.key, visible.indexOf(document.activeElement), visible.length);
    if (next === null) return;
    event.preventDefault();
    visible[next].focus();
    open(Number(visible[next].dataset.at));
  });

  function filter() {
    const wanted = byId("filter").value.trim().toLowerCase();
    const onlyWrong = byId("only-wrong")?.checked ?? false;
    for (const button of buttons) {
      const item = button.parentElement;
      item.hidden = !item.textContent.toLowerCase().includes(wanted) || (onlyWrong && !item.hasAttribute("data-wrong"));
    }
    const visible = buttons.filter((button) => !button.parentElement.hidden);
    if (visible.length && !visible.includes(buttons[state.at])) visible.forEach((button, at) => (button.tabIndex = at ? -1 : 0));
  }
  byId("filter").addEventListener("input", filter);
  byId("only-wrong")?.addEventListener("change", filter);

  byId("words").addEventListener("change", (event) => {
    state.words = event.target.checked;
    state.token = state.cell = null;
    showAll();
  });
  byId("special").addEventListener("change", (event) => {
    state.special = event.target.checked;
    showPairs();
  });
  byId("count").addEventListener("input", (event) => {
    state.count = Number(event.target.value);
    byId("count-shown").textContent = state.count;
    showPairs();
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
})();
