// What Python wrote for a test, and the engine's files.

import {readFileSync} from 'node:fs';
import {join} from 'node:path';

export const json = (name) => JSON.parse(readFileSync(join(process.env.VECTORS, name), 'utf8'));
export const bytes = (name) => new Uint8Array(readFileSync(join(process.env.VECTORS, name)));
export const engine = (name) => import(join(process.env.ENGINE, name));
export const rows = (notes) => notes.map(({start, end, pitch, velocity}) => [start, end, pitch, velocity]);
export const notes = (rows) => rows.map(([start, end, pitch, velocity]) => ({start, end, pitch, velocity}));
export const spans = (rows) => rows.map(([start, end]) => ({start, end}));
