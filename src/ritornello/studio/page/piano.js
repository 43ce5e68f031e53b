// The piano: two layers of recorded notes, a minor third apart, in any audio context, also an offline one.

const LETTERS = {0: 'C', 3: 'Ds', 6: 'Fs', 9: 'A'};
const RECORDED = Array.from({length: 30}, (_, n) => 21 + 3 * n); // A0 to C8
const LAYERS = ['soft', 'loud'];
const LOUD_FROM = 72; // velocity
const SOFT_GAIN = 1.72; // by how much the loud layer is louder, the median over all notes
const CURVE = 1.2, FULL = 96; // a note of velocity v is (v / FULL) ** CURVE times as loud as the loud layer
const QUIET = 0.003; // what comes before a recording's attack
const DAMPED_S = 0.07, UNDAMPED = 90, RING_S = 0.6; // strings above have no dampers
const MOST_VOICES = 72, TAIL_S = 0.5;

/** The recorded notes, decoded; those in the middle of the keyboard first. */
export class Samples {
  constructor() {
    /** @type {Map<string, {buffer: AudioBuffer, attack: number}>} */
    this.buffers = new Map();
    this.loaded = Promise.resolve();
  }

  /** Loads all; `context` decodes. What is there can be played before all is. */
  load(context, folder) {
    this.loaded = this.fetch(context, folder);
    return this.loaded;
  }

  async fetch(context, folder) {
    /** @type {[number, string][]} */
    const wanted = [...RECORDED].sort((a, b) => Math.abs(a - 60) - Math.abs(b - 60))
      .flatMap((pitch) => LAYERS.map((layer) => /** @type {[number, string]} */ ([pitch, layer])));
    let next = 0, failed = 0;
    const worker = async () => {
      while (next < wanted.length) {
        const [pitch, layer] = wanted[next++];
        try {
          const name = `${LETTERS[pitch % 12]}${Math.floor(pitch / 12) - 1}-${layer}`;
          const answer = await fetch(new URL(`${name}.mp3`, folder));
          if (!answer.ok) throw new Error(String(answer.status));
          const buffer = await context.decodeAudioData(await answer.arrayBuffer());
          this.buffers.set(pitch + layer, {buffer, attack: attackOf(buffer)});
        } catch { failed++; }
      }
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    if (failed) throw new Error(`${failed} of the piano's ${wanted.length} recordings could not be loaded`);
  }

  /** The recording for a key, the nearest that is loaded, and how much faster it is to be played. */
  find(pitch, layer) {
    const nearest = Math.min(29, Math.max(0, Math.round((pitch - 21) / 3)));
    for (let away = 0; away < 30; away++) {
      for (const n of [nearest - away, nearest + away]) {
        const recorded = this.buffers.get(RECORDED[n] + layer);
        if (recorded) return {...recorded, rate: 2 ** ((pitch - RECORDED[n]) / 12)};
      }
    }
    return null;
  }
}

function attackOf(buffer) {
  const wave = buffer.getChannelData(0);
  let first = 0;
  while (first < wave.length && Math.abs(wave[first]) < QUIET) first++;
  return Math.max(0, first / buffer.sampleRate - 0.002);
}

export class Piano {
  /** @param {BaseAudioContext} context @param {Samples} samples */
  constructor(context, samples) {
    this.context = context;
    this.samples = samples;
    this.volume = context.createGain();
    const limiter = context.createDynamicsCompressor();
    limiter.threshold.value = -8;
    limiter.ratio.value = 12;
    limiter.attack.value = 0.002;
    this.analyser = context.createAnalyser();
    this.volume.connect(limiter).connect(this.analyser).connect(context.destination);
    this.volume.gain.value = 0.9;
    /** @type {Set<Voice>} */
    this.voices = new Set();
  }

  /** Strikes a key at `when` (the context's time); let go at `release`, or by the voice that is returned. */
  strike(pitch, velocity, when = this.context.currentTime, release = Infinity) {
    const layer = velocity < LOUD_FROM ? 'soft' : 'loud';
    const sample = this.samples.find(pitch, layer);
    if (!sample) return null;
    for (const voice of this.voices) { // one key, one string
      if (voice.pitch === pitch && voice.when < when) voice.release(when, 0.03);
    }
    this.makeRoom(when);
    const gain = (velocity / FULL) ** CURVE * (layer === 'soft' ? SOFT_GAIN : 1);
    const voice = new Voice(this, sample, pitch, Math.max(when, this.context.currentTime), gain);
    if (release < Infinity) voice.release(release);
    return voice;
  }

  /** Lets everything fall silent, and what has not begun yet not begin. */
  silence() {
    for (const voice of this.voices) voice.release(this.context.currentTime, 0.03, true);
  }

  /** Lets the quietest voice go where too many would sound at `when`. */
  makeRoom(when) {
    let count = 0, quietest = null, least = Infinity;
    for (const voice of this.voices) {
      if (voice.when > when || voice.released + TAIL_S < when) continue;
      count++;
      const loudness = voice.gain * Math.exp(voice.when - when) * (voice.released < when ? 0.1 : 1);
      if (loudness < least) [quietest, least] = [voice, loudness];
    }
    if (count >= MOST_VOICES) quietest.release(when, 0.01, true);
  }
}

class Voice {
  constructor(piano, {buffer, attack, rate}, pitch, when, gain) {
    this.piano = piano;
    this.pitch = pitch;
    this.when = when;
    this.gain = gain;
    this.released = Infinity;
    this.source = piano.context.createBufferSource();
    this.source.buffer = buffer;
    this.source.playbackRate.value = rate;
    this.envelope = piano.context.createGain();
    this.envelope.gain.value = gain;
    this.source.connect(this.envelope).connect(piano.volume);
    this.source.start(when, attack);
    piano.voices.add(this);
    this.source.onended = () => {
      piano.voices.delete(this);
      this.envelope.disconnect();
    };
  }

  /** Lets the key go at `when`; the earliest release counts, unless it is to be `cut`. */
  release(when, fade = this.pitch > UNDAMPED ? RING_S : DAMPED_S, cut = false) {
    if (when >= this.released && !cut) return;
    this.released = when;
    const {gain} = this.envelope;
    if (when <= this.when) { // it has not begun
      gain.cancelScheduledValues(0);
      gain.setValueAtTime(0, when);
      this.source.stop(this.when);
      return;
    }
    gain.cancelScheduledValues(when);
    gain.setTargetAtTime(0, when, fade);
    this.source.stop(when + 7 * fade);
  }
}
