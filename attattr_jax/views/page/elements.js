  // What the page is made of: elements, numbers, colours.

  const byId = (id) => document.getElementById(id);
  const blocks = [...document.querySelectorAll("script[data-example]")];
  const buttons = [...document.querySelectorAll("#example-list button")];
  const state = { at: 0, layer: null, head: null, words: false, special: document.getElementById("special").checked, count: 10, token: null, cell: null, pair: null, order: "given", with: null };
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

