// What a page has of a window, against the plain way: whatever rows there were and are, the frames in between lead there.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FrameError, WindowModel, fallback, turned } from "../../widgets/tripleweb_widgets/static/window.js";

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

function random(start) {
  let state = start >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** The frame from one list of rows to another, by the specification: rows that move are all but one rising run. */
function difference(before, after, n) {
  const here = new Map(after.map(([key, value], at) => [key, { value, at }]));
  const there = new Map(before.map(([key, value], at) => [key, { value, at }]));
  const frame = { t: "window", id: "w", n, total: after.length, matching: after.length };
  frame.removed = before.filter(([key]) => !here.has(key)).map(([key]) => key);
  let highest = -1;
  frame.moved = [];
  frame.inserted = [];
  frame.changed = [];
  after.forEach(([key, value], at) => {
    const was = there.get(key);
    if (!was) frame.inserted.push([at, key, [["n", value]]]);
    else {
      if (was.at < highest) frame.moved.push([at, key]);
      highest = Math.max(highest, was.at);
      if (was.value !== value) frame.changed.push([key, [["n", value]]]);
    }
  });
  return frame;
}

test(`frames lead from any rows to any others (SEED=${seed})`, () => {
  const draw = random(seed);
  for (let round = 0; round < 2_000; round++) {
    const model = new WindowModel();
    const some = () => {
      const keys = Array.from({ length: 9 }, (_, key) => key).filter(() => draw(3));
      return keys.map((key) => [draw(1_000), key]).sort(([a], [b]) => a - b).map(([, key]) => [key, draw(3)]);
    };
    let rows = some();
    model.apply({ n: 1, total: 0, matching: 0, reset: true, columns: ["x"], rows: rows.map(([k, v]) => [k, [["n", v]]]) });
    for (let n = 2; n < 6; n++) {
      const next = some();
      const frame = difference(rows, next, n);
      const news = model.apply(frame);
      assert.deepEqual(model.rows.map(({ key, cells }) => [key, cells[0][1]]), next);
      assert.deepEqual([...news.changed.keys()], frame.changed.map(([key]) => key));
      assert.deepEqual([...news.inserted], frame.inserted.map(([, key]) => key));
      rows = next;
    }
  }
});

test("what does not fit is an error", () => {
  const model = () => {
    const made = new WindowModel();
    made.apply({ n: 1, total: 1, matching: 1, reset: true, columns: ["x"], rows: [[7, [["n", 1]]]] });
    return made;
  };
  assert.throws(() => model().apply({ n: 3, total: 1, matching: 1 }), FrameError); // one is missing
  assert.throws(() => model().apply({ n: 1, total: 1, matching: 1 }), FrameError); // it came twice
  assert.throws(() => model().apply({ n: 2, total: 1, matching: 1, removed: [8] }), FrameError);
  assert.throws(() => model().apply({ n: 2, total: 1, matching: 1, changed: [[8, [["n", 1]]]] }), FrameError);
  assert.throws(() => model().apply({ n: 2, total: 1, matching: 1, inserted: [[5, 8, [["n", 1]]]] }), FrameError);
});

test("only the cells that are others count as changed", () => {
  const model = new WindowModel();
  const cells = [["s", "a"], ["n", 1], ["", null]];
  model.apply({ n: 1, total: 1, matching: 1, reset: true, columns: ["x", "y", "z"], rows: [[7, cells]] });
  const news = model.apply({ n: 2, total: 1, matching: 1, changed: [[7, [["s", "a"], ["n", 2], ["s", ""]]]] });
  assert.deepEqual([...(news.changed.get(7) ?? [])], [1, 2]);
});

test("pages are turned to those that there are", () => {
  const view = { count: 25, first: 50 };
  assert.equal(turned(view, 100, 1), 75);
  assert.equal(turned(view, 100, 9), 75);
  assert.equal(turned(view, 100, -9), 0);
  assert.equal(turned(view, 100, Infinity), 75);
  assert.equal(turned(view, 100, -Infinity), 0);
  assert.equal(turned(view, 30, 0), 25, "rows went away");
  assert.equal(turned(view, 0, 0), 0);
  assert.equal(turned({ count: 10 }, 11, 1), 10);
});

test("what cannot be shown falls back to what was, then to the plainest, and then to nothing", () => {
  const plain = { count: 25, first: 0 };
  const shown = { count: 100, first: 200, order: [["a", "asc"]], turn: 7 };
  const asked = { ...shown, filters: [{ column: "a", op: "missing" }], turn: 8 };
  const before = fallback(asked, shown, plain);
  assert.deepEqual([before.count, before.first, before.order, before.filters], [100, 0, [["a", "asc"]], []]);
  const plainest = fallback(before, shown, plain);
  assert.deepEqual([plainest.count, plainest.order, plainest.filters], [25, [], []]);
  assert.equal(fallback(plainest, shown, plain), null);
  assert.equal(fallback(plain, plain, plain), null);
  assert.equal(fallback({ ...plain, first: 50, paused: true }, plain, plain), null, "another page is no other look");
});
