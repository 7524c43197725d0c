// @tanstack/db-ivm: a dataflow of differences, one pipeline a query. It has no store: the row that changes is kept in a
// Map, whose update is in the figure, as a write is elsewhere. It has no recursion.
import { D2, filter, groupBy, groupByOperators, join, map, MultiSet, output } from "@tanstack/db-ivm";
import { attempt, clocked, entities, fieldOf, follow, hundredRows, kindOf, plan, tell, version } from "./measured.mjs";

const kinds = { user: [], post: [], comment: [], tag: [] };
for (const { type, ...e } of entities) kinds[type].push(e);
tell({ engine: "db-ivm", versions: { "@tanstack/db-ivm": version("@tanstack/db-ivm"), node: process.version }, loaded_s: null, triples: null });

// The inputs of one graph and their rows; `pipe` sets its pipelines up.
function measure(figure, used, pipe, answer) {
  const graph = new D2();
  const inputs = Object.fromEntries(used.map((kind) => [kind, graph.newInput()]));
  pipe(inputs);
  graph.finalize();
  const rows = Object.fromEntries(used.map((kind) => [kind, new Map(kinds[kind].map((e) => [e.id, e]))]));
  const [, opened_ms] = clocked(() => {
    for (const kind of used) inputs[kind].sendData(new MultiSet(kinds[kind].map((e) => [[e.id, e], 1])));
    graph.run();
  });
  const write = (s, p, value) => {
    const kind = kindOf(p);
    const old = rows[kind].get(s);
    const fresh = { ...old, [fieldOf(p)]: value };
    rows[kind].set(s, fresh);
    inputs[kind].sendData(new MultiSet([[[s, old], -1], [[s, fresh], 1]]));
    graph.run();
  };
  const bulk = (writes) => {
    for (const [s, p, value] of writes) write(s, p, value);
  };
  follow(figure, { change: write, bulk, answer, opened_ms });
}

// Keeps the rows of an answer that are there: by their key, how often, and the latest.
function kept(row) {
  const rows = new Map();
  const take = output((differences) => {
    for (const [item, n] of differences.getInner()) {
      const [key, value] = row(item);
      const left = (rows.get(key)?.n ?? 0) + n;
      if (left === 0) rows.delete(key);
      else rows.set(key, { n: left, value: n > 0 ? value : rows.get(key).value });
    }
  });
  return { rows, take, answer: () => [...rows.values()].map(({ value }) => value) };
}

const joined = (post, user, floor) =>
  post.pipe(
    filter(([, v]) => v.score > floor),
    map(([, v]) => [v.authorId, v]),
    join(user.pipe(filter(([, v]) => v.isActive)), "inner"),
  );

await attempt("join", (f) => {
  const result = kept(([, [p, u]]) => [p.title + "\n" + u.name, [p.title, u.name]]);
  measure(f, ["user", "post"], ({ user, post }) => joined(post, user, 90).pipe(result.take), result.answer);
});
await attempt("aggregate", (f) => {
  const result = kept(([, v]) => [v.a + "\n" + v.average + "\n" + v.n, [v.a, v.average, v.n]]);
  measure(
    f,
    ["post"],
    ({ post }) =>
      post.pipe(
        map(([, v]) => v),
        groupBy((v) => ({ a: v.authorId }), { average: groupByOperators.avg((v) => v.score), n: groupByOperators.count() }),
        result.take,
      ),
    result.answer,
  );
});
await attempt("negation", (f) => {
  const result = kept(([, [u]]) => [u.name, [u.name]]);
  measure(
    f,
    ["user", "comment"],
    ({ user, comment }) => user.pipe(join(comment.pipe(map(([, v]) => [v.authorId, true])), "anti"), result.take),
    result.answer,
  );
});
for (const f of ["hundred_changed", "hundred_heard"])
  await attempt(f, () => {
    const results = [];
    measure(
      f,
      ["user", "post"],
      ({ user, post }) => {
        for (const floor of plan.thresholds) {
          const result = kept(([, [p, u]]) => [p.title + "\n" + u.name + "\n" + p.score, [p.title, u.name, p.score]]);
          results.push(result);
          joined(post, user, floor).pipe(result.take);
        }
        for (const floor of plan.ages) {
          const result = kept(([, u]) => [u.name + "\n" + u.age, [u.name, u.age]]);
          results.push(result);
          user.pipe(filter(([, u]) => u.age > floor && u.isActive), result.take);
        }
      },
      () => results.flatMap((result, i) => hundredRows(i, result.answer())),
    );
  });
