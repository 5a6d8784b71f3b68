// A window onto a matrix, the same for all matrices in sight: [first row, one past the last, first column, one past it].

const LEAST = 6; // rows or columns that a window keeps

export function parseZoom(text) {
  const parts = (text ?? "").split(".").map(Number);
  return parts.length === 4 && parts.every(Number.isInteger) && parts[0] < parts[1] && parts[2] < parts[3] ? parts : null;
}

// The window inside of what there is; all of it without a window, or where the two do not meet.
export function within(zoom, bounds) {
  if (!zoom) return bounds;
  const [a, b, c, d] = [Math.max(zoom[0], bounds[0]), Math.min(zoom[1], bounds[1]), Math.max(zoom[2], bounds[2]), Math.min(zoom[3], bounds[3])];
  return a < b && c < d ? [a, b, c, d] : bounds;
}

function span(first, last, low, high, factor, at) {
  const size = Math.min(high - low, Math.max(Math.min(LEAST, high - low), Math.round((last - first) / factor)));
  const share = (at + 0.5 - first) / (last - first);
  const start = Math.min(Math.max(Math.round(at + 0.5 - share * size), low), high - size);
  return [start, start + size];
}

// Closer (factor above 1) or farther, with a cell staying where it is; null when all is in sight again.
export function zoomed(zoom, bounds, factor, { query, key }) {
  const [a, b, c, d] = within(zoom, bounds);
  const rows = span(a, b, bounds[0], bounds[1], factor, Math.min(Math.max(query, a), b - 1));
  const columns = span(c, d, bounds[2], bounds[3], factor, Math.min(Math.max(key, c), d - 1));
  const all = rows[0] === bounds[0] && rows[1] === bounds[1] && columns[0] === bounds[2] && columns[1] === bounds[3];
  return all ? null : [...rows, ...columns].join(".");
}

export function panned(zoom, bounds, down, across) {
  const [a, b, c, d] = within(zoom, bounds);
  const rows = Math.min(Math.max(down, bounds[0] - a), bounds[1] - b);
  const columns = Math.min(Math.max(across, bounds[2] - c), bounds[3] - d);
  return [a + rows, b + rows, c + columns, d + columns].join(".");
}

// Keeps a row in sight; the columns of a causal matrix move with it, for its news is at the diagonal.
export function followed(zoom, bounds, row, causal) {
  const [a, b] = within(zoom, bounds);
  if (row >= a && row < b) return zoom.join(".");
  const down = row - Math.floor((a + b - 1) / 2);
  return panned(zoom, bounds, down, causal ? down : 0);
}
