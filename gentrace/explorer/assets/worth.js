// What the numbers on the screen are worth, in a few words and in a sentence.

const percent = (store) => `${(100 * store.error).toPrecision(2)} %`;

export function nameWorth({ head, store, refined }) {
  if (head.exact || refined) return "exact";
  if (head.whole) return `8 bits, to ${percent(store)}`;
  return `blocks of ${head.blocks.size}${store.link ? ", exact when zoomed" : ""}`;
}

export function explainWorth({ head, store, tab, refined }) {
  const { size } = head.blocks ?? {};
  if (tab === "tokens") return "probabilities to five digits, as the trace has them";
  if (store.link && (refined || tab === "neuron")) return `exact: float32, from ${store.link.name}`;
  if (head.exact && (head.whole || refined)) return "exact: computed here from queries and keys in float32";
  if (head.exact) return `numbers are exact, computed here from queries and keys in float32; the picture: blocks of ${size} × ${size} tokens, exact when zoomed`;
  if (store.link) {
    const picture = head.whole ? `in 8 bits, to ${percent(store)}` : `the largest weight of each block of ${size} × ${size} tokens, exact when zoomed`;
    return `numbers at the pointer and in the row are exact, float32, from ${store.link.name}; the picture: ${picture}`;
  }
  if (head.whole) return `8 bits: weights to ${percent(store)} down to ${store.low}; name heads in exact= for exact numbers`;
  return `largest weight of each block of ${size} × ${size} tokens, to ${percent(store)}; name heads in exact=, or fewer layers, heads or rows, for every cell`;
}
