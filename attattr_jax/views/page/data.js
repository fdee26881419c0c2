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

  const labels = (of = example) => (state.words ? of.words.labels : of.tokens);
  const groups = (of = example) => (state.words ? of.words.groups : of.tokens.map((_, at) => [at]));
  const areMerged = (of) => state.words && of.words.groups.length < of.tokens.length;
  const specialOf = (of = example) => groups(of).map((group) => of.special[group[0]] !== 0);

  // The matrix of what is selected: {values, size, decimals, largest}, or null where it is not in the page.
  let known = { key: null };
  function matrix(kind) {
    const key = [state.at, state.layer, state.head, state.words].join();
    if (known.key !== key) known = { key };
    if (!(kind in known)) known[kind] = readMatrix(kind, example);
    return known[kind];
  }

  function readMatrix(kind, of) {
    const numLayers = of.layers.length;
    const numHeads = of.importance ? of.importance[0].length : 0;
    const inPage = { heads: 1 + numLayers + numLayers * numHeads, layers: 1 + numLayers, sentence: 1, none: 0 }[of.detail];
    const row = state.layer;
    const place = row === null ? 0 : state.head === null ? 1 + row : 1 + numLayers + row * numHeads + state.head;
    const isAttention = kind === "attention";
    if (place >= inPage || (isAttention && of.decimals.attention === null)) return null;
    const numTokens = of.tokens.length;
    const start = (place + (isAttention ? inPage : 0)) * numTokens * numTokens;
    let decimals = isAttention ? of.decimals.attention : of.decimals.attribution[place];
    const scale = 10 ** -decimals;
    const merged = groups(of);
    const size = merged.length;
    const values = new Float64Array(size * size);
    merged.forEach((from, i) =>
      merged.forEach((to, j) => {
        let sum = 0;
        for (const a of from) for (const b of to) sum += of.codes[start + a * numTokens + b];
        values[i * size + j] = (isAttention ? sum / from.length : sum) * scale;
      }),
    );
    if (areMerged(of)) decimals -= 1; // sums of rounded numbers
    let largest = 0;
    for (const value of values) largest = Math.max(largest, Math.abs(value));
    return { values, size, decimals, largest };
  }

  // Pairs with special tokens are left out unless they are asked for, or there are no others.
  function strongestPairs(found) {
    const others = pairsOf(found, state.special);
    return others.length || state.special ? others : pairsOf(found, true);
  }

  function pairsOf(found, withSpecial, count = state.count) {
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
    return pairs.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]) || a[0] - b[0] || a[1] - b[1]).slice(0, count);
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

