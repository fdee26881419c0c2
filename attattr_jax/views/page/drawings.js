  // ---- Drawings: arrows, matrices, trees ----

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

