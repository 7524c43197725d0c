// Triplit, server and clients, stored in SQLite: node triplit_sync.mjs ROLE PORT FOLDER, the roles being server, writer
// and reader. What it is told, and says, are JSON objects, one a line, as in tests/bench/sync/role.py.
import { createRequire } from "module";
import fs from "fs";
import readline from "readline";

const [, , role, port, folder] = process.argv;
const require = createRequire(import.meta.url);
const modules = new URL("./node_modules/", import.meta.url).href;
const address = `http://127.0.0.1:${port}`;
const SECRET = "a secret of the bench, a secret of the bench, a secret of the bench";
const write = process.stdout.write.bind(process.stdout);
const say = (said) => write(JSON.stringify(said) + "\n");
console.log = () => {};
const nowUs = () => Number(process.hrtime.bigint() / 1000n);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const token = () => require("jsonwebtoken").sign({ "x-triplit-token-type": "secret", "x-triplit-project-id": "p" }, SECRET);

const { Schema: S, TriplitClient } = await import(modules + "@triplit/client/dist/index.js");
let bytesIn = 0; // what follows comes after the client's import, which would wrap a WebSocket that it finds
const Plain = require("ws");
globalThis.WebSocket = class extends Plain {
  constructor(...given) {
    super(...given);
    this.on("message", (data) => (bytesIn += data.length));
  }
};
const schema = S.Collections({
  item: { schema: S.Schema({ id: S.Id(), name: S.String(), score: S.Number() }) },
  user: {
    schema: S.Schema({
      id: S.Id(), name: S.String(), email: S.String(), age: S.Number(), isActive: S.Boolean(), createdAt: S.String(),
      managerId: S.Optional(S.String()),
    }),
  },
  post: {
    schema: S.Schema({
      id: S.Id(), title: S.String(), score: S.Number(), createdAt: S.String(), authorId: S.String(), tagIds: S.Set(S.String()),
    }),
  },
  comment: { schema: S.Schema({ id: S.Id(), text: S.String(), postId: S.String(), authorId: S.String() }) },
  tag: { schema: S.Schema({ id: S.Id(), name: S.String() }) },
});
const client = () => new TriplitClient({ serverUrl: address, token: token(), schema, autoConnect: true, logLevel: "error" });
const called = async (path, body) => {
  const headers = { authorization: "Bearer " + token(), "content-type": "application/json" };
  const answer = await fetch(address + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${(await answer.text()).slice(0, 200)}`);
  return answer.json();
};
const follow = async (ops) => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    await ops[order.op](order);
  }
  process.exit(0);
};

const roles = {
  async server() {
    const { createServer } = await import(modules + "@triplit/server/dist/index.js");
    const { createTriplitStorageProvider } = await import(modules + "@triplit/server/dist/storage.js");
    process.env.LOCAL_DATABASE_URL = folder + "/triplit.sqlite";
    const storage = await createTriplitStorageProvider("sqlite");
    const start = await createServer({ storage, jwtSecret: SECRET, projectId: "p", dbOptions: { schema: { collections: schema } } });
    start(+port, () => write("serves\n"));
  },

  async writer() {
    const c = client();
    let ready = false;
    c.onConnectionStatusChange((status) => {
      if (status === "OPEN" && !ready) {
        ready = true;
        say({ ready: 1 });
      }
    }, true);
    await follow({
      async insert({ n }) {
        const here = new Promise((done) => c.subscribe(c.query("item"), (rows) => rows.length >= n && done()));
        await c.transact(async (tx) => {
          for (let i = 0; i < n; i++) await tx.insert("item", { id: "i" + i, name: "n" + i, score: 0 });
        });
        await here;
        say({ done: 1 });
      },
      async burst({ n, v }) {
        say({ t0: nowUs() });
        for (let i = 0; i < n; i++) await c.update("item", "i" + i, { score: v });
      },
      async paced({ n, rate }) {
        const began = nowUs();
        for (let i = 0; i < n; i++) {
          const due = began + (i * 1e6) / rate;
          while (nowUs() < due) await pause(Math.max(0, (due - nowUs()) / 1000));
          await c.update("item", "i" + (i % 100), { score: nowUs() });
        }
        say({ done: 1 });
      },
      async load({ entities }) {
        const began = nowUs();
        const kinds = {};
        for (const { type, ...entity } of JSON.parse(fs.readFileSync(entities, "utf8"))) (kinds[type] ||= []).push(entity);
        for (const [kind, those] of Object.entries(kinds))
          for (let i = 0; i < those.length; i += 2000) await called("/bulk-insert?noReturn=true", { [kind]: those.slice(i, i + 2000) });
        say({ loaded: (nowUs() - began) / 1e6 });
      },
      async touch({ ids, v, each }) {
        if (!c.touches) {
          c.touches = true;
          await new Promise((done) => c.subscribe(c.query("post"), () => {}, null, { onRemoteFulfilled: done }));
        }
        for (let k = 0; k < ids.length; k += each)
          await c.transact(async (tx) => {
            for (const id of ids.slice(k, k + each)) await tx.update("post", id, { score: v });
          });
        const deadline = nowUs() + 60e6;
        for (let have = 0; have < ids.length && nowUs() < deadline; ) {
          const found = await called("/fetch", { query: { collectionName: "post", where: [["score", "=", v]] } });
          have = Array.isArray(found) ? found.length : Object.keys(found).length;
          if (have < ids.length) await pause(200);
        }
        say({ done: 1 });
      },
    });
  },

  async reader() {
    const clients = [];
    const delays = [];
    let heard = 0, before = 0, since = 0, listening = false, target = null, left = 0, count = 0;
    let fresh = null;
    const watch = (c, n) =>
      new Promise((ready) => {
        const last = new Map();
        let first = true, finished = null;
        c.subscribe(c.query("item"), (rows) => {
          const now = nowUs();
          if (first) {
            if (rows.length < n) return;
            first = false;
            for (const row of rows) last.set(row.id, row.score);
            ready();
          } else if (listening) {
            for (const row of rows)
              if (last.get(row.id) !== row.score) {
                last.set(row.id, row.score);
                if (row.score > since) delays.push(now - row.score);
              }
          } else if (target !== null && finished !== target) {
            let have = 0;
            for (const row of rows) if (row.score === target) have++;
            if (have >= count) {
              finished = target;
              if (--left === 0) say({ t: nowUs(), bytes: (bytesIn - before) / clients.length / count });
            }
          }
        });
      });
    say({ ready: 1 });
    await follow({
      async sub({ k, n }) {
        const ready = [];
        for (let i = 0; i < k; i++) {
          const c = client();
          clients.push(c);
          ready.push(watch(c, n));
        }
        await Promise.all(ready);
        say({ subbed: 1 });
      },
      async expect({ v, n }) {
        [target, left, count, before] = [v, clients.length, n, bytesIn];
        say({ armed: 1 });
      },
      async listen() {
        delays.length = 0;
        [listening, heard, since] = [true, bytesIn, nowUs()];
        say({ armed: 1 });
      },
      async delays({ n }) {
        const deadline = nowUs() + 5e6;
        while (delays.length < n * clients.length && nowUs() < deadline) await pause(10);
        say({ delays, bytes: (bytesIn - heard) / Math.max(1, delays.length) });
        listening = false;
      },
      async fresh() {
        if (fresh) fresh.disconnect();
        const began = nowUs();
        const c = (fresh = client());
        await Promise.all(
          ["user", "post", "comment", "tag"].map(
            (kind) => new Promise((done) => c.subscribe(c.query(kind), () => {}, null, { onRemoteFulfilled: done })),
          ),
        );
        const kinds = await Promise.all(
          ["user", "post", "comment", "tag"].map((kind) => c.fetch(c.query(kind), { policy: "local-only" })),
        );
        let n = 0;
        const took = nowUs() - began;
        for (const rows of kinds)
          for (const { id, ...fields } of rows) for (const v of Object.values(fields)) n += v instanceof Set ? v.size : v != null;
        say({ t: took / 1e6, n });
      },
      async off() {
        fresh.disconnect();
        say({ off: 1 });
      },
      async on({ v, ids }) {
        const began = nowUs();
        const wanted = new Set(ids);
        await new Promise((done) => {
          fresh.subscribe(
            fresh.query("post").Where("score", "=", v),
            (rows) => {
              let have = 0;
              for (const row of rows) have += wanted.has(row.id);
              if (have >= ids.length) done();
            },
            null,
            { localOnly: true },
          );
          fresh.connect();
        });
        say({ t: (nowUs() - began) / 1e6, n: ids.length });
      },
    });
  },
};
await roles[role]();
