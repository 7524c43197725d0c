// DataScript in the bench of queries, answers as arrays: node --expose-gc datascript_queries.mjs FOLDER OUT OPTIONS.
// The twin of tests/bench/queries/measured.py: same data and options in, same lines out. Entities are numbers here; their
// names are put back outside of what is timed. Three times the repetitions, since the compiler has to warm up. Memory
// is that of the heap.
import fs from "node:fs";
import { createRequire } from "node:module";

const d = createRequire(import.meta.url)("datascript");
const [folder, out, given] = process.argv.slice(2);
const options = JSON.parse(given);
const read = (name) => JSON.parse(fs.readFileSync(`${folder}/${name}.json`, "utf8"));
const tell = (facts) => fs.appendFileSync(out, JSON.stringify(facts) + "\n");
const version = JSON.parse(fs.readFileSync(new URL("./node_modules/datascript/package.json", import.meta.url), "utf8")).version;
const heap = () => {
  globalThis.gc?.();
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
};

const plan = read("plan");
const number = new Map();
const began = heap();
let datoms = [];
let load_s;
const KINDS = ["tag", "user", "post", "comment"];
const REFERENCES = new Set(["managerId", "authorId", "postId", "tagIds"]);
const ref = { ":db/valueType": ":db.type/ref" };
const schema = {
  "user/email": { ":db/index": true },
  "user/managerId": ref,
  "post/authorId": ref,
  "post/tagIds": { ...ref, ":db/cardinality": ":db.cardinality/many" },
  "comment/postId": ref,
  "comment/authorId": ref,
};
let kinds = KINDS.map((kind) => [kind, read(kind)]);
for (const [, held] of kinds) for (const id of held.id) number.set(id, number.size + 1);
for (const [kind, held] of kinds)
  for (const name in held) {
    if (name === "id") continue;
    held[name].forEach((value, i) => {
      if (value === null) return;
      for (const one of [value].flat())
        datoms.push([number.get(held.id[i]), `${kind}/${name}`, REFERENCES.has(name) ? number.get(one) : one]);
    });
  }
kinds = null;
const start = performance.now();
let db = d.init_db(datoms, schema);
load_s = (performance.now() - start) / 1e3;
let load_transacted_s = null;
if (plan.triples < 1e6) {
  const start = performance.now();
  let other = d.empty_db(schema);
  for (let i = 0; i < datoms.length; i += 5000) other = d.db_with(other, datoms.slice(i, i + 5000).map((one) => [":db/add", ...one]));
  load_transacted_s = (performance.now() - start) / 1e3;
}
datoms = null;
const names = [null, ...number.keys()]; // the ids are here either way, and count
const { email, tag, root, manager, scored, moved } = plan.parameters;
const of = Object.fromEntries([tag, root, manager, scored[0], ...moved].map((id) => [id, number.get(id)]));
number.clear();
const perTriple = () => Math.round(((heap() - began) / plan.triples) * 10) / 10;
tell({
  engine: "datascript",
  versions: { datascript: version, node: process.version },
  load_s,
  load_transacted_s,
  triples: plan.triples,
  bytes_per_triple: perTriple(),
  note: "init_db with datoms; entities are numbers; memory is the heap's; answers are arrays",
});

const RULES = `[[(reports ?m ?e) [?e "user/managerId" ?m]] [(reports ?m ?e) [?x "user/managerId" ?m] (reports ?x ?e)]]`;
const HOT = `[:find ?t ?n :where [?p "post/score" ?s] [(> ?s 90)] [?p "post/authorId" ?u] [?u "user/isActive" true] [?p "post/title" ?t] [?u "user/name" ?n]]`;
const MEANS = `[:find ?u (avg ?s) (count ?s) :with ?p :where [?p "post/authorId" ?u] [?p "post/score" ?s]]`;
const BELOW = `[:find ?n :in $ % ?m :where (reports ?m ?e) [?e "user/name" ?n]]`;
const TALK = `[:find ?c ?x ?n :in $ ?tag :where [?p "post/tagIds" ?tag] [?c "comment/postId" ?p] [?c "comment/text" ?x] [?c "comment/authorId" ?u] [?u "user/name" ?n]]`;
const USERS = `[:find ?u ?n ?e ?a ?ac ?cr :where [?u "user/name" ?n] [?u "user/email" ?e] [?u "user/age" ?a] [?u "user/isActive" ?ac] [?u "user/createdAt" ?cr]]`;
const ONE = `[:find (pull ?u ["user/name" "user/email" {"post/_authorId" ["post/title" "post/score"]}]) :in $ ?email :where [?u "user/email" ?email]]`;
const MANY = `[:find (pull ?p ["post/title" {"post/authorId" ["user/name"]} {"post/tagIds" ["tag/name"]}]) :where [?p "post/score" ?s] [(> ?s 90)]]`;

const named = (...places) => (rows) => rows.map((row) => row.map((value, i) => (places.includes(i) ? names[value] : value)));
const asIs = (rows) => rows;
const sorted = (held) => {
  if (Array.isArray(held)) return held.map(sorted).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  if (held === null || typeof held !== "object") return held;
  return Object.fromEntries(Object.keys(held).sort().map((name) => [name, sorted(held[name])]));
};
const pulled = (rows) => rows.map(([entity]) => [JSON.stringify(sorted(entity))]);
const write = (s, p, value) => () => {
  db = d.db_with(db, [[":db/add", of[s], p, p === "user/managerId" ? of[value] : value]]);
};
const scores = [scored[1], scored[2]].map((value) => write(scored[0], "post/score", value));
const moves = [moved[1], moved[2]].map((value) => write(moved[0], "user/managerId", value));
const FIGURES = {
  Q0: [() => d.q(`[:find ?n :where [_ "tag/name" ?n]]`, db), asIs],
  Q1: [() => d.q(`[:find ?n ?u :in $ ?email :where [?u "user/email" ?email] [?u "user/name" ?n]]`, db, email), named(1)],
  Q2: [() => d.q(HOT, db), asIs],
  Q3: [() => d.q(TALK, db, of[tag]), named(0)],
  Q4: [() => d.q(MEANS, db), named(0)],
  Q5a: [() => d.q(BELOW, db, RULES, of[manager]), asIs],
  Q5b: [() => d.q(BELOW, db, RULES, of[root]), asIs],
  Q6: [() => d.q(`[:find ?n :where [?u "user/name" ?n] (not [_ "comment/authorId" ?u])]`, db), asIs],
  Q7: [() => d.q(USERS, db), named(0)],
  pull_one: [() => d.q(ONE, db, email), pulled],
  pull_many: [() => d.q(MANY, db), pulled],
  Q2_written: [() => d.q(HOT, db), asIs, scores],
  Q4_written: [() => d.q(MEANS, db), named(0), scores],
  Q5b_written: [() => d.q(BELOW, db, RULES, of[root]), asIs, moves],
  closure: [() => d.q(`[:find ?m ?e :in $ % :where (reports ?m ?e)]`, db, RULES), named(0, 1)],
};
for (const figure of options.figures) {
  if (!(figure in FIGURES)) continue;
  const [one, rowsOf, writes] = FIGURES[figure];
  try {
    globalThis.gc?.();
    const ms = [];
    let found;
    const deadline = performance.now() + options.seconds * 1e3;
    while (ms.length <= 3 * options.runs && (ms.length < 2 || performance.now() < deadline)) {
      writes?.[ms.length % 2]();
      const began = performance.now();
      found = one();
      ms.push(Math.round((performance.now() - began) * 1e4) / 1e4);
      if (ms[0] > 3e3 * options.seconds) break;
    }
    if (writes) {
      writes[1]();
      found = one();
    }
    const rows = rowsOf(found);
    const width = rows.length ? rows[0].length : 0;
    tell({ figure, ms, columns: Array.from({ length: width }, (_, i) => rows.map((row) => row[i])) });
  } catch (error) {
    console.error(error);
    tell({ figure, error: String(error).slice(0, 500) });
  }
}
tell({ engine_after: { bytes_per_triple_asked: perTriple() } });
