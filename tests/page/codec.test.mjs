// Tokens, grammar, hints, pedals, random numbers and draws as in Python.

import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import test from 'node:test';

import {bytes, engine, json, rows} from './vectors.mjs';

const {encode, StreamDecoder} = await engine('codec.js');
const {Grammar} = await engine('grammar.js');
const {MotifMemory} = await engine('motifs.js');
const {readMidi} = await engine('midi.js');
const {withPedal} = await engine('notes.js');
const {Random} = await engine('random.js');
const {complete, draw} = await engine('sampling.js');

for (const [i, vector] of json('performances.json').entries()) {
  test(vector.name, async () => {
    const piece = await readMidi(bytes(`${i}.mid`));
    const expected = bytes(`${i}.tokens`);
    const {tokens, steps} = encode(piece.notes, piece.pedals);
    assert.deepEqual(tokens, Array.from(new Uint16Array(expected.buffer, expected.byteOffset, expected.length / 2)));
    assert.equal(steps.at(-1), vector.steps);

    const decoder = new StreamDecoder(), grammar = new Grammar();
    const memories = vector.hints.map(({notes, called}) => new MotifMemory(notes, called === 'known'));
    const masks = createHash('sha256'), told = memories.map(() => createHash('sha256'));
    const decoded = [];
    for (const token of tokens) {
      masks.update(grammar.legal());
      grammar.advance(token);
      decoded.push(...decoder.feed(token));
      memories.forEach((memory, n) => {
        memory.advance(token);
        if (vector.hints[n].called !== 'never' && token < 128 && memory.count % 100 === 0) memory.call(memory.count - 50);
        told[n].update(new Uint8Array(Int16Array.from(memory.hint()).buffer));
      });
    }
    decoded.sort((a, b) => a.start - b.start || a.pitch - b.pitch);
    assert.deepEqual(rows(decoded), vector.notes);
    assert.equal(masks.digest('hex'), vector.masks);
    vector.pedalled.forEach(({since, pedals, sha256}, n) => {
      const given = n ? piece : {notes: decoded, pedals: []}; // the first is of what the tokens hold
      const found = withPedal(given.notes, given.pedals, since);
      assert.equal(found.pedals.length, pedals);
      const numbers = [...rows(found.notes), ...found.pedals.map(({start, end}) => [start, end])].flat();
      assert.equal(createHash('sha256').update(new Uint8Array(Float64Array.from(numbers).buffer)).digest('hex'), sha256);
    });
    assert.deepEqual(told.map((hash) => hash.digest('hex')), vector.hints.map(({sha256}) => sha256));
  });
}

test('a seed gives the numbers that it gives in NumPy', () => {
  for (const {seed, numbers} of json('random.json')) {
    const random = new Random(seed);
    assert.deepEqual(numbers.map(() => random.next()), numbers);
  }
});

test('the same uniform numbers draw the same events', () => {
  const {cases, logits, legal} = json('sampling.json');
  for (const {row, sampling, uniforms, events} of cases) {
    const drawn = uniforms.map(
      (uniform) => draw(Float32Array.from(logits[row]), Uint8Array.from(legal[row]), complete(sampling), uniform));
    assert.deepEqual(drawn, events, JSON.stringify(sampling));
  }
});

test('settings outside their limits and likelihoods that are no numbers are refused', () => {
  for (const bad of [{temperature: -1}, {topP: 0}, {topP: 1.1}, {minP: NaN}, {returns: -1}]) {
    assert.throws(() => complete(bad), /must lie between/);
  }
  const legal = Uint8Array.from([1, 1, 1]);
  assert.throws(() => draw(Float32Array.from([0, NaN, 1]), legal, complete(), 0.5), /no numbers/);
});
