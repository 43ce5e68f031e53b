// From logits to a token, as `ritornello.sampling` does.

import {END, NOTE_OFF, SHIFT, VELOCITY} from './codec.js';

/** @typedef {{temperature?: number, topP?: number, minP?: number, topK?: number, returns?: number}} Sampling */

export const DEFAULTS = {temperature: 1, topP: 0.98, minP: 0, topK: 0, returns: 1};
// All settings act within each; the longest wait and the end, of no kind, stay as likely as the model says.
const TEMPERED = [[0, NOTE_OFF], [NOTE_OFF, SHIFT], [VELOCITY, END]];
const KINDS = [...TEMPERED, [SHIFT, VELOCITY - 1]]; // without the longest wait
const ALL_TOP_P = 0.95, ALL_MIN_P = 0.05; // beyond which cuts act within each kind
const HIGHEST = {temperature: 100, topP: 1, minP: 1, topK: Infinity, returns: 60};

/**
 * All settings, those that are not given by default.
 * @param {Sampling} sampling
 * @throws {Error} for a number outside its limits
 */
export function complete(sampling = {}) {
  const full = {...DEFAULTS, ...sampling};
  for (const [name, highest] of Object.entries(HIGHEST)) {
    if (!(full[name] >= 0 && full[name] <= highest) || (name === 'topP' && full[name] === 0)) {
      throw new Error(`${name} is ${full[name]}; it must lie between 0 and ${highest}`);
    }
  }
  return full;
}

/**
 * Probabilities of the events: zero for illegal ones and for those that top-k, top-p and min-p leave out.
 * @param {Float32Array} logits
 * @param {Uint8Array} legal
 * @param {Required<Sampling>} sampling
 */
export function probabilities(logits, legal, {temperature, topP, minP, topK}) {
  const highest = legal.reduce((most, may, i) => (may ? Math.max(most, logits[i]) : most), -Infinity);
  if (!Number.isFinite(highest)) {
    throw new Error("the model's likelihoods are no numbers: its weights are damaged; use another model");
  }
  const p = Float64Array.from(legal, (may, i) => (may ? Math.exp(logits[i] - highest) : 0));
  normalise(p);
  for (const [first, behind] of temperature === 1 ? [] : TEMPERED) {
    const kind = p.subarray(first, behind), share = sum(kind);
    if (!(share > 0)) continue;
    temper(kind, logits.subarray(first, behind), legal.subarray(first, behind), temperature);
    normalise(kind, share);
  }
  cut(p, Math.max(topP, ALL_TOP_P), Math.min(minP, ALL_MIN_P), topK);
  normalise(p);
  for (const [first, behind] of topP < ALL_TOP_P || minP > ALL_MIN_P ? KINDS : []) {
    const kind = p.subarray(first, behind), share = sum(kind);
    if (!(share > 0)) continue;
    cut(normalise(kind), Math.min(1, topP / ALL_TOP_P), minP, 0);
    normalise(kind, share);
  }
  return p;
}

/**
 * One event, never an illegal one.
 * @param {number} uniform a number from 0 up to 1, which decides
 */
export function draw(logits, legal, sampling, uniform) {
  const p = probabilities(logits, legal, sampling);
  let total = 0;
  const cumulative = p.map((share) => (total += share));
  return cumulative.findIndex((reached) => reached > uniform * total);
}

/** Draws the events of a kind nearer to the likeliest among them, or further away. */
function temper(kind, logits, legal, temperature) {
  const highest = legal.reduce((most, may, i) => (may ? Math.max(most, logits[i]) : most), -Infinity);
  const likeliest = legal.findIndex((may, i) => may && logits[i] === highest);
  legal.forEach((may, i) => {
    if (!temperature) kind[i] = Number(i === likeliest);
    else kind[i] = may ? Math.exp((logits[i] - highest) / temperature) : 0;
  });
}

/** Leaves out what top-k, top-p and min-p do not keep . */
function cut(kind, topP, minP, topK) {
  if (topP < 1 || topK > 0) {
    const order = [...kind.keys()].sort((a, b) => kind[b] - kind[a] || a - b);
    if (topK > 0) {
      for (const i of order.slice(topK)) kind[i] = 0;
      normalise(kind);
    }
    let before = 0; // what the likelier ones reach
    for (const i of order) {
      const own = kind[i];
      if (topP < 1 && before >= topP) kind[i] = 0;
      before += own;
    }
  }
  const least = minP * kind.reduce((a, b) => Math.max(a, b));
  kind.forEach((share, i) => { if (share < least) kind[i] = 0; });
}

const sum = (values) => values.reduce((a, b) => a + b);

function normalise(p, share = 1) {
  const total = sum(p);
  p.forEach((own, i) => { p[i] = share * (own / total); });
  return p;
}
