// Uniform numbers from a seed: those of NumPy's `default_rng(seed).random()`, so that a seed means the same music wherever
// it is played. The seed is spread by M. O'Neill's seed sequence, the generator is her PCG64 (XSL-RR, 128 bits of state).

const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;
const [BITS_64, BITS_128] = [(1n << 64n) - 1n, (1n << 128n) - 1n];
const POOL = 4;

export class Random {
  /** @param {number} seed a whole number, not negative */
  constructor(seed) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(`the seed is ${seed}; give a whole number from 0 on`);
    const words = spread(seed);
    const wide = (i) => words.slice(i, i + 4).reduce((sum, _, n) => sum | (BigInt(words[i + [2, 3, 0, 1][n]]) << BigInt(32 * n)), 0n);
    this.increment = ((wide(4) << 1n) | 1n) & BITS_128;
    this.state = (this.increment + wide(0)) & BITS_128;
    this.step();
  }

  /** A number from 0 up to 1, 1 left out. */
  next() {
    this.step();
    const [high, turn] = [this.state >> 64n, this.state >> 122n];
    const word = (high ^ this.state) & BITS_64;
    const turned = ((word >> turn) | (word << (64n - turn))) & BITS_64;
    return Number(turned >> 11n) / 2 ** 53;
  }

  step() {
    this.state = (this.state * MULTIPLIER + this.increment) & BITS_128;
  }
}

/** Eight words of 32 bits. */
function spread(seed) {
  const entropy = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  if (!entropy[1]) entropy.pop();
  let constant = 0x43b0d7e5;
  const hashed = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const pool = Array.from({length: POOL}, (_, i) => hashed(entropy[i] ?? 0));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) {
      if (from === to) continue;
      const mixed = Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, hashed(pool[from]));
      pool[to] = mixed ^ (mixed >>> 16);
    }
  }
  let other = 0x8b51f9dd;
  return Array.from({length: 2 * POOL}, (_, i) => {
    let value = pool[i % POOL] ^ other;
    other = Math.imul(other, 0x58f38ded);
    value = Math.imul(value, other);
    return (value ^ (value >>> 16)) >>> 0;
  });
}
