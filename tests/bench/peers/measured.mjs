// The stopwatch of the peers that run in Node: the twin of tests/bench/live/measured.py, same plan in, same lines out.
// node --expose-gc PEER.mjs FOLDER OUT
import fs from "node:fs";

const [folder, out] = process.argv.slice(2);
export const plan = JSON.parse(fs.readFileSync(`${folder}/plan.json`, "utf8"));
export const entities = fs
  .readFileSync(`${folder}/entities.jsonl`, "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line));
export const REFERENCES = new Set(["managerId", "authorId", "postId", "tagIds"]);
export const fieldOf = (predicate) => predicate.slice(predicate.indexOf("/") + 1);
export const kindOf = (predicate) => predicate.slice(0, predicate.indexOf("/"));
export const tell = (facts) => fs.appendFileSync(out, JSON.stringify(facts) + "\n");
const us = (times) => times.map((t) => Math.round(t * 1e5) / 1e2);

export const version = (name) =>
  JSON.parse(fs.readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), "utf8")).version;

// One figure; what it throws is told instead of its times, and the others go on.
export async function attempt(figure, measure) {
  try {
    await measure(figure);
  } catch (error) {
    console.error(error);
    tell({ figure, error: String(error).slice(0, 500) });
  }
}

// Times `change` for each change of the figure until the cap, makes the rest by `bulk`, tells the answer, and takes
// everything back.
export function follow(figure, { change, bulk, answer, close = () => {}, opened_ms = null, note = "" }) {
  const changes = plan.changes[figure];
  globalThis.gc?.();
  const times = [];
  const deadline = performance.now() + plan.cap_s * 1e3;
  let rows;
  try {
    for (const [s, p, value] of changes) {
      if (times.length >= 2 && performance.now() > deadline) break;
      const began = performance.now();
      change(s, p, value);
      times.push(performance.now() - began);
    }
    bulk(changes.slice(times.length).map(([s, p, value]) => [s, p, value]));
    rows = answer();
  } finally {
    // the figures that come after begin with the data as it was
    close();
    bulk([...changes].reverse().map(([s, p, , old]) => [s, p, old]));
  }
  tell({ figure, us: us(times), rows, opened_ms, note });
}

export function lookUp(figure, one, note = "") {
  globalThis.gc?.();
  const times = [];
  const found = [];
  const deadline = performance.now() + plan.cap_s * 1e3;
  for (const subject of plan.lookups) {
    if (times.length >= 2 && performance.now() > deadline) break;
    const began = performance.now();
    const value = one(subject);
    times.push(performance.now() - began);
    found.push([value]);
  }
  tell({ figure, us: us(times), rows: found, note });
}

// Times `run` on parts of the writes of scores; a figure is the time a write of one part.
export function batches(figure, run, note = "") {
  globalThis.gc?.();
  const posts = entities.filter((e) => e.type === "post").map((e) => e.id);
  const writes = Array.from({ length: plan.writes }, (_, i) => [posts[(i * 7919) % posts.length], "post/score", i % 101]);
  const size = Math.max(1, Math.floor(writes.length / 20));
  const times = [];
  const deadline = performance.now() + plan.cap_s * 1e3;
  for (let start = 0; start + size <= writes.length; start += size) {
    if (times.length >= 2 && performance.now() > deadline) break;
    const part = writes.slice(start, start + size);
    const began = performance.now();
    run(part);
    times.push((performance.now() - began) / size);
  }
  tell({ figure, us: us(times), rows: null, note, each: size });
}

export const clocked = (job) => {
  const began = performance.now();
  const result = job();
  return [result, performance.now() - began];
};

// What is compared of one of the hundred answers: how many rows, and of some the rows.
export const hundredRows = (number, rows) => [
  [number, "rows", rows.length],
  ...(plan.sampled.includes(number) ? rows.map((row) => [number, ...row]) : []),
];
