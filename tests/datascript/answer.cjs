// Answers queries with DataScript: a JSON array of cases comes in, one JSON line a case goes out.
//   node answer.cjs FOLDER_OF_NODE_MODULES < cases.json
// A case is {name, triples: [[entity, attribute, value]], references, many, query, inputs}; a query without triples
// gets no database. A line is {name, rows} or {name, error}.
const path = require("path");
console.log = () => {}; // where DataScript prints what it is about to complain of
const datascript = require(path.join(process.argv[2], "node_modules", "datascript"));

function answer({ triples, references, many, query, inputs }) {
  if (triples === null) return datascript.q(query, ...inputs);
  const schema = {};
  for (const attribute of references) schema[attribute] = { ":db/valueType": ":db.type/ref" };
  for (const attribute of many) {
    schema[attribute] = { ...schema[attribute], ":db/cardinality": ":db.cardinality/many" };
  }
  return datascript.q(query, datascript.init_db(triples, schema), ...inputs);
}

let text = "";
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => {
  for (const one of JSON.parse(text)) {
    let line;
    try {
      const rows = answer(one);
      line = { name: one.name, rows: rows === undefined ? null : rows };
    } catch (error) {
      line = { name: one.name, error: String(error.message ?? error).slice(0, 500) };
    }
    process.stdout.write(JSON.stringify(line) + "\n");
  }
});
