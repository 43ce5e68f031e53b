// From logits to a token, as `ritornello.sampling` does.

import {END, NOTE_OFF, SHIFT, VELOCITY} from './codec.js';

/** @typedef {{temperature?: number, topP?: number, minP?: number, returns?: number}} Sampling */

export const DEFAULTS = {temperature: 0.95, topP: 0.98, minP: 0, returns: 0.75};
const TEMPERED = [[0, NOTE_OFF], [NOTE_OFF, SHIFT]];
const KINDS = [...TEMPERED, [SHIFT, VELOCITY - 1]]; // without the longest wait
const ALL_TOP_P = 0.95; // beyond which top-p acts within each kind, as min-p does
const HIGHEST = {temperature: 100, topP: 1, minP: 1, returns: 60};

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
 * Probabilities of the events: zero for illegal ones and for those that top-p and min-p leave out.
 * @param {Float32Array} logits
 * @param {Uint8Array} legal
 * @param {Required<Sampling>} sampling
 */
export function probabilities(logits, legal, {temperature, topP, minP}) {
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
  const q = p.slice();
  cut(q, Math.max(topP, ALL_TOP_P), 0);
  q.set(p.subarray(VELOCITY, END), VELOCITY);
  for (const [first, behind] of topP < ALL_TOP_P || minP ? KINDS : []) {
    const kind = q.subarray(first, behind), share = sum(kind), few = normalise(p.slice(first, behind));
    if (!(share > 0)) continue;
    cut(few, topP < ALL_TOP_P ? topP : 1, minP);
    few.forEach((own, i) => { if (!own) kind[i] = 0; });
    normalise(kind, share);
  }
  return normalise(q);
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

/** Leaves out what top-p and min-p do not keep of events whose shares have the sum 1. */
function cut(p, topP, minP) {
  const least = minP * p.reduce((a, b) => Math.max(a, b));
  if (topP < 1) {
    const order = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b);
    let before = 0; // what the likelier ones reach
    for (const i of order) {
      const own = p[i];
      if (before >= topP) p[i] = 0;
      before += own;
    }
  }
  p.forEach((share, i) => { if (share < least) p[i] = 0; });
}

const sum = (values) => values.reduce((a, b) => a + b);

function normalise(p, share = 1) {
  const total = sum(p);
  p.forEach((own, i) => { p[i] = share * (own / total); });
  return p;
}
