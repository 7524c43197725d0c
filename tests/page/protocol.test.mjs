// The protocol as a page speaks it: frames in, frames out, moments as arguments.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PageCore, SILENCE_MS } from "../../widgets/tripleweb_widgets/static/protocol.js";

const WELCOME = JSON.stringify({ t: "welcome", user: "ada", features: ["lineage", "views"] });

function watched() {
  const seen = [];
  return {
    seen,
    shown: (window, news) => seen.push(["shown", window.model.rows.length, news.reset]),
    failed: (code) => seen.push(["failed", code]),
    stale: () => seen.push(["stale"]),
  };
}

function online(core, now = 0) {
  core.connected("0123456789ab", now);
  core.take(WELCOME, now);
  return said(core);
}

const said = (core) => core.outgoing.splice(0).map((text) => JSON.parse(text));
const frame = (more) => JSON.stringify({ t: "window", id: "w1", epoch: "e", seq: 1, total: 1, matching: 1, ...more });
const whole = (more) => frame({ n: 1, turn: 1, reset: true, columns: ["x"], rows: [[1, [["n", 1]]]], ...more });

test("a hello keeps nothing, then come the windows", () => {
  const core = new PageCore();
  core.open({ published: "V1" }, { count: 25 }, watched());
  assert.deepEqual(said(core), []); // nothing can be said yet
  const [hello, subscribe, ...rest] = online(core);
  assert.equal(hello.next, 2 ** 53);
  assert.deepEqual(hello.protocol, [2, 2]);
  assert.deepEqual(subscribe, {
    t: "subscribe", n: 1, subscription: { id: "w1", kind: "rows", published: "V1", view: { count: 25, turn: 1 } },
  });
  assert.deepEqual(rest, []);
});

test("what is said after the hello counts itself, on each connection from 1", () => {
  const core = new PageCore();
  const watcher = watched();
  const window = core.open({ query: "q" }, { count: 5 }, watcher);
  online(core);
  core.scroll(window, { first: 5 });
  core.close(core.open({ query: "p" }, { count: 5 }, watched()));
  assert.deepEqual(said(core).map(({ t, n }) => [t, n]), [["scroll", 2], ["subscribe", 3], ["unsubscribe", 4]]);
  core.disconnected();
  const again = online(core);
  assert.deepEqual(again.map(({ t, n }) => [t, n]), [["hello", undefined], ["subscribe", 1]]);
  assert.equal(again[1].subscription.view.first, 5);
});

test("rows stay over a lost connection, and are stale until they have come again", () => {
  const core = new PageCore();
  const watcher = watched();
  const window = core.open({ published: "V1" }, { count: 25 }, watcher);
  online(core);
  core.take(whole(), 1);
  assert.equal(window.isCurrent, true);
  core.disconnected();
  assert.equal(window.isLive, false);
  assert.equal(window.model.rows.length, 1);
  online(core);
  core.take(whole({ rows: [] }), 2);
  assert.deepEqual(watcher.seen, [["shown", 1, true], ["stale"], ["shown", 0, true]]);
});

test("it is current when the turn that was asked for last has come", () => {
  const core = new PageCore();
  const window = core.open({ published: "V1" }, { count: 25 }, watched());
  online(core);
  core.take(whole(), 1);
  core.scroll(window, { order: [["x", "desc"]] });
  assert.equal(window.isCurrent, false);
  core.take(frame({ n: 2, turn: 2 }), 1);
  assert.equal(window.isCurrent, true);
});

test("a frame that is missing breaks the connection", () => {
  const core = new PageCore();
  core.open({ published: "V1" }, { count: 25 }, watched());
  online(core);
  core.take(whole(), 1);
  core.take(frame({ n: 3, turn: 1 }), 1);
  assert.match(core.broken, /frame 3 .* where 2 was due/);
});

test("a window that begins without its rows breaks the connection", () => {
  const core = new PageCore();
  core.open({ published: "V1" }, { count: 25 }, watched());
  online(core);
  core.take(frame({ n: 1, turn: 1 }), 1);
  assert.match(core.broken, /begins without its rows/);
});

test("silence breaks the connection; pings ask for a sign of life", () => {
  const core = new PageCore();
  online(core, 0);
  core.tick(9_999);
  assert.deepEqual(said(core), []);
  core.tick(10_000);
  assert.deepEqual(said(core), [{ t: "ping", now: 10_000 }]);
  core.take(JSON.stringify({ t: "pong", now: 1, echo: 10_000 }), 10_001);
  core.tick(SILENCE_MS);
  assert.equal(core.broken, "");
  core.tick(10_001 + SILENCE_MS);
  assert.equal(core.broken, "the server is silent");
});

test("a fault says why, and how long to stay away", () => {
  const core = new PageCore();
  online(core);
  core.take(JSON.stringify({ t: "fault", code: "overload", message: "too many", wait: 1_500 }), 1);
  assert.equal(core.broken, "overload: too many");
  assert.equal(core.wait, 1_500);
});

test("a window that failed is over, also after the next hello", () => {
  const core = new PageCore();
  const watcher = watched();
  core.open({ published: "V0" }, { count: 25 }, watcher);
  online(core);
  core.take(JSON.stringify({ t: "failed", id: "w1", code: "unknown", message: "no such view" }), 1);
  core.take(whole(), 1); // late, and not heard
  core.disconnected();
  assert.deepEqual(online(core).map(({ t }) => t), ["hello"]);
  assert.deepEqual(watcher.seen, [["failed", "unknown"]]);
});

test("an older server is left alone", () => {
  const core = new PageCore();
  core.open({ published: "V1" }, { count: 25 }, watched());
  core.connected("0123456789ab", 0);
  core.take(JSON.stringify({ t: "welcome", user: "ada", features: ["lineage"] }), 0);
  assert.match(core.broken, /older/);
  assert.ok(core.wait >= 60_000);
});

test("what is no frame breaks the connection", () => {
  const core = new PageCore();
  online(core);
  core.take("<html>", 1);
  assert.equal(core.broken, "what came is no frame");
});
