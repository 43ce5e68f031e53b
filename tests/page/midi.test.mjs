// MIDI files read and written as Python does it.

import assert from 'node:assert/strict';
import test from 'node:test';

import {bytes, engine, json, notes, rows, spans} from './vectors.mjs';

const {MidiError, readMidi, writeMidi} = await engine('midi.js');

for (const {name, file, piece, refused, written} of json('files.json')) {
  test(name, async () => {
    if (refused) {
      await assert.rejects(readMidi(bytes(file)), (error) => error instanceof MidiError && error.message === refused);
      return;
    }
    const read = await readMidi(bytes(file));
    assert.deepEqual(rows(read.notes), piece.notes);
    assert.deepEqual(read.pedals.map(({start, end}) => [start, end]), piece.pedals);
    assert.equal(read.title, piece.title);
    assert.deepEqual(read.mended, piece.mended);
    assert.deepEqual(writeMidi(read), bytes(written));
  });
}

test('notes of one key that overlap are written to channels of their own, and so are several players', () => {
  for (const {pieces, written} of json('pieces.json')) {
    const parts = pieces.map((piece) => ({notes: notes(piece.notes), pedals: spans(piece.pedals), title: piece.title}));
    assert.deepEqual(writeMidi(parts), bytes(written));
  }
});
