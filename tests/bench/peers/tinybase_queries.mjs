// TinyBase: its query definitions follow the store; each has a listener, as who follows an answer has. It has neither
// negation nor recursion.
import { createQueries, createStore } from "tinybase";
import { attempt, batches, clocked, entities, fieldOf, follow, hundredRows, kindOf, lookUp, plan, tell, version } from "./measured.mjs";

const store = createStore();
const [, loaded_ms] = clocked(() =>
  store.transaction(() => {
    for (const { id, type, tagIds, ...e } of entities) if (type === "user" || type === "post") store.setRow(type, id, e);
  }),
);
tell({ engine: "tinybase", versions: { tinybase: version("tinybase"), node: process.version }, loaded_s: loaded_ms / 1e3, triples: null });

const write = (s, p, value) => store.setCell(kindOf(p), s, fieldOf(p), value);
const bulk = (writes) =>
  store.transaction(() => {
    for (const [s, p, value] of writes) write(s, p, value);
  });
let calls = 0;

// Opens the queries once for all of the figures: opening a hundred takes minutes where there is much data.
async function measure(figures, define, answer) {
  const queries = createQueries(store);
  const [names, opened_ms] = clocked(() => define(queries));
  for (const name of names) queries.addResultTableListener(name, () => calls++);
  const rows = () => answer((name) => Object.values(queries.getResultTable(name)));
  for (const figure of figures) await attempt(figure, () => follow(figure, { change: write, bulk, answer: rows, opened_ms }));
  for (const name of names) queries.delQueryDefinition(name);
  queries.destroy();
}

const posts = (queries, name, floor, ...cells) =>
  queries.setQueryDefinition(name, "post", ({ select, where, join }) => {
    for (const cell of cells) select(cell);
    select("u", "name");
    join("user", "authorId").as("u");
    where((cell) => cell("score") > floor);
    where("u", "isActive", true);
  });

await attempt("point", (f) => lookUp(f, (id) => store.getCell("user", id, "name"), "a cell, not a query"));
await attempt("set", (f) => {
  const before = store.getTable("post");
  batches(f, (part) => {
    for (const [s, p, value] of part) write(s, p, value);
  }, "setCell");
  store.transaction(() => {
    for (const id in before) store.setCell("post", id, "score", before[id].score);
  });
});
await attempt("join", (f) =>
  measure(
    [f],
    (queries) => (posts(queries, "join", 90, "title"), ["join"]),
    (table) => table("join").map((row) => [row.title, row.name]),
  ),
);
await attempt("aggregate", (f) =>
  measure(
    [f],
    (queries) => {
      queries.setQueryDefinition("aggregate", "post", ({ select, group }) => {
        select("authorId");
        select("score");
        select((cell) => cell("score")).as("one");
        group("score", "avg").as("average");
        group("one", "count").as("n");
      });
      return ["aggregate"];
    },
    (table) => table("aggregate").map((row) => [row.authorId, row.average, row.n]),
  ),
);
await attempt("hundred_changed", () =>
  measure(
    ["hundred_changed", "hundred_heard"],
    (queries) => {
      plan.thresholds.forEach((floor, i) => posts(queries, `q${i}`, floor, "title", "score"));
      plan.ages.forEach((floor, i) =>
        queries.setQueryDefinition(`q${80 + i}`, "user", ({ select, where }) => {
          select("name");
          select("age");
          where((cell) => cell("age") > floor);
          where("isActive", true);
        }),
      );
      return Array.from({ length: 100 }, (_, i) => `q${i}`);
    },
    (table) =>
      Array.from({ length: 100 }, (_, i) =>
        hundredRows(i, table(`q${i}`).map((row) => (i < 80 ? [row.title, row.name, row.score] : [row.name, row.age]))),
      ).flat(),
  ),
);
