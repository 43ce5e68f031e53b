// Notes and what the sustain pedal does to them, as `ritornello.notes`.

/** @typedef {import('./midi.js').Note} Note */
/** @typedef {import('./midi.js').Span} Span */

const PEDAL_LAG_S = 0.08; // how long after a strike or a lift a foot presses the pedal
const SHORTEST_S = 0.1; // of a pedal span, and before a key held by the pedal is let go

/**
 * Spans sorted, empty ones dropped, overlapping ones joined; those that only touch stay apart.
 * @param {Span[]} spans
 */
export function merged(spans) {
  /** @type {Span[]} */
  const found = [];
  for (const span of spans.filter(({start, end}) => end > start).sort((a, b) => a.start - b.start)) {
    const last = found.at(-1);
    if (last && span.start < last.end) last.end = Math.max(last.end, span.end);
    else found.push({...span});
  }
  return found;
}

const inOrder = (a, b) => a.start - b.start || a.pitch - b.pitch || a.end - b.end;

/**
 * Notes by their starts, with when each falls silent and when its key is struck next.
 * @param {Note[]} notes @param {Span[]} pedals
 */
export function sounding(notes, pedals) {
  const spans = merged(pedals), next = new Map();
  const rows = [...notes].sort(inOrder).map((note) => ({note, silent: held(spans, note.end), again: Infinity}));
  for (const row of [...rows].reverse()) {
    const {pitch, start} = row.note, later = next.get(pitch);
    if (later) row.again = later.note.start === start ? later.again : later.note.start;
    row.silent = Math.min(row.silent, row.again);
    next.set(pitch, row);
  }
  return rows;
}

/** When the pedal lets go what a key lets go at a time. */
function held(spans, time) {
  const span = spans[countUntil(spans.length, (n) => spans[n].start <= time) - 1];
  return span ? Math.max(time, span.end) : time;
}

/** How many of the first so many numbers something holds for, which holds for none after one that it does not hold for. */
function countUntil(most, holds) {
  let [low, high] = [0, most];
  while (low < high) {
    const middle = (low + high) >> 1;
    [low, high] = holds(middle) ? [middle + 1, high] : [low, middle];
  }
  return low;
}

/**
 * The same music with what only a pedal holds as pedal spans: `Piece.with_pedal` in Python, which says how.
 * @template {Note} N
 * @param {N[]} notes @param {Span[]} pedals
 * @param {number} since what sounds until then, and notes struck before, stay as they were played
 * @returns {{notes: N[], pedals: Span[]}}
 */
export function withPedal(notes, pedals, since = 0) {
  const rows = sounding(notes, pedals);
  const free = rows.filter(({silent, again}) => silent < again && silent > since);
  /** @type {Map<number, {lift: number, count: number, begun: number, down: number}>} */
  const groups = new Map();
  for (const {note, silent} of free) {
    const group = groups.get(silent) ?? {lift: silent, count: 0, begun: note.start, down: 0};
    groups.set(silent, {...group, count: group.count + 1, begun: Math.min(group.begun, note.start)});
  }
  const lifts = [...groups.values()].sort((a, b) => a.lift - b.lift);
  let begun = Infinity; // of what sounds towards a lift or a later one
  for (const [n, group] of [...lifts.entries()].reverse()) {
    begun = Math.min(begun, group.begun);
    group.down = Math.max(begun, since, lifts[n - 1]?.lift ?? 0) + PEDAL_LAG_S;
  }
  const pedalled = new Map(lifts.filter(({lift, count, down}) => count > 1 && lift - down >= SHORTEST_S)
    .map(({lift, down}) => [lift, down]));
  const isFree = new Set(free);
  const lengths = rows.map((row) => {
    const {note, silent} = row, isNew = note.start >= since, down = pedalled.get(silent);
    if (!isNew && silent <= since) return note;
    if (!isNew || down === undefined || !isFree.has(row)) return {...note, end: silent};
    const following = countUntil(rows.length, (n) => rows[n].note.start < note.start + SHORTEST_S);
    const strike = rows[following]?.note.start ?? Infinity;
    return {...note, end: Math.min(Math.max(strike, down), silent)};
  });
  const spans = [...pedalled].map(([end, start]) => ({start, end}));
  return {notes: lengths.sort(inOrder), pedals: merged([...merged(pedals).filter(({start}) => start < since), ...spans])};
}
