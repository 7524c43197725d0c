// DataScript: no live queries, so each change is `db_with` and the query once more.
import { createRequire } from "node:module";
import { attempt, batches, clocked, entities, fieldOf, follow, hundredRows, lookUp, plan, REFERENCES, tell, version } from "./measured.mjs";

const d = createRequire(import.meta.url)("datascript");
const number = new Map(entities.map((e, i) => [e.id, i + 1]));
const names = new Map(entities.map((e, i) => [i + 1, e.id]));
const ref = { ":db/valueType": ":db.type/ref" };
const schema = {
  "user/managerId": ref,
  "post/authorId": ref,
  "post/tagIds": { ...ref, ":db/cardinality": ":db.cardinality/many" },
  "comment/postId": ref,
  "comment/authorId": ref,
};
const began = performance.now();
const datoms = [];
for (const e of entities)
  for (const k in e) {
    if (k === "id" || k === "type") continue;
    for (const x of [e[k]].flat()) datoms.push([number.get(e.id), `${e.type}/${k}`, REFERENCES.has(k) ? number.get(x) : x]);
  }
let db = d.init_db(datoms, schema);
tell({ engine: "datascript", versions: { datascript: version("datascript"), node: process.version }, loaded_s: (performance.now() - began) / 1e3, triples: datoms.length });
datoms.length = 0;

const write = (s, p, value) => {
  db = d.db_with(db, [[":db/add", number.get(s), p, REFERENCES.has(fieldOf(p)) ? number.get(value) : value]]);
};
const bulk = (writes) => {
  for (const [s, p, value] of writes) write(s, p, value);
};
const RULES = `[[(reports ?m ?e) [?e "user/managerId" ?m]] [(reports ?m ?e) [?x "user/managerId" ?m] (reports ?x ?e)]]`;
const JOIN = `[:find ?t ?n :where [?p "post/score" ?s] [(> ?s 90)] [?p "post/authorId" ?u] [?u "user/isActive" true] [?p "post/title" ?t] [?u "user/name" ?n]]`;
const AGGREGATE = `[:find ?u (avg ?s) (count ?s) :with ?p :where [?p "post/authorId" ?u] [?p "post/score" ?s]]`;
const NEGATION = `[:find ?n :where [?u "user/name" ?n] (not [_ "comment/authorId" ?u])]`;
const RECURSION = `[:find ?n :in $ % ?m :where (reports ?m ?e) [?e "user/name" ?n]]`;
const POSTS = `[:find ?t ?n ?s :in $ ?floor :where [?p "post/score" ?s] [(> ?s ?floor)] [?p "post/authorId" ?u] [?u "user/isActive" true] [?p "post/title" ?t] [?u "user/name" ?n]]`;
const USERS = `[:find ?n ?a :in $ ?floor :where [?u "user/age" ?a] [(> ?a ?floor)] [?u "user/isActive" true] [?u "user/name" ?n]]`;
const POINT = `[:find ?n . :in $ ?e :where [?e "user/name" ?n]]`;

function rerun(figure, ask, answer = ask) {
  const [, opened_ms] = clocked(ask);
  let rows;
  follow(figure, {
    change: (s, p, value) => {
      write(s, p, value);
      rows = ask();
    },
    bulk,
    answer,
    opened_ms,
    note: "db_with and the query again",
  });
  return rows;
}

const { root, manager } = plan.parameters;
await attempt("point", (f) => lookUp(f, (id) => d.q(POINT, db, number.get(id))));
await attempt("set", (f) => {
  const before = db;
  batches(f, (part) => {
    for (const [s, p, value] of part) write(s, p, value);
  }, "db_with");
  db = before;
});
await attempt("join", (f) => rerun(f, () => d.q(JOIN, db)));
await attempt("aggregate", (f) => {
  const ask = () => d.q(AGGREGATE, db);
  rerun(f, ask, () => ask().map(([u, ...rest]) => [names.get(u), ...rest]));
});
await attempt("negation", (f) => rerun(f, () => d.q(NEGATION, db)));
for (const f of ["recursion_root", "recursion_manager", "recursion_sizes"])
  await attempt(f, () => rerun(f, () => d.q(RECURSION, db, RULES, number.get(f === "recursion_manager" ? manager : root))));
for (const f of ["hundred_changed", "hundred_heard"])
  await attempt(f, () => {
    const ask = () => [...plan.thresholds.map((floor) => d.q(POSTS, db, floor)), ...plan.ages.map((floor) => d.q(USERS, db, floor))];
    rerun(f, ask, () => ask().flatMap((rows, i) => hundredRows(i, rows)));
  });
