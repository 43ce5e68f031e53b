// What sentences count.

import assert from 'node:assert/strict';
import test from 'node:test';

import {engine, json} from './vectors.mjs';

const {counted} = await engine('../music.js');

test('one is in the singular', () => {
  for (const [plural, singular] of Object.entries(json('counted.json'))) {
    assert.deepEqual([0, 1, 2].map((count) => counted(count, plural)), [`0 ${plural}`, `1 ${singular}`, `2 ${plural}`]);
  }
});
