// Which token of one text is which of another: the longest run of equal tokens in the same order.

const CELLS = 20_000_000;

// Pairs [i, j] with equal labels, increasing in both.
export function align(one, other) {
  const pairs = [];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) pairs.push([start, start++]);
  let tail = 0;
  const [n, m] = [one.length - start, other.length - start];
  while (tail < n && tail < m && one[one.length - 1 - tail] === other[other.length - 1 - tail]) tail++;
  const [rows, columns] = [n - tail, m - tail];
  if (rows * columns <= CELLS) pairs.push(...longest(one, other, start, rows, columns));
  for (let at = tail; at > 0; at--) pairs.push([one.length - at, other.length - at]);
  return pairs;
}

function longest(one, other, start, rows, columns) {
  const lengths = Array.from({ length: rows + 1 }, () => new Uint16Array(columns + 1));
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      const same = one[start + i] === other[start + j];
      lengths[i][j] = same ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (one[start + i] === other[start + j]) pairs.push([start + i++, start + j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}
