// What a person types above a column, as the server's filter. (How cells read is held against Python's by test_page.py.)
import assert from "node:assert/strict";
import { test } from "node:test";
import { filterOf, numberText } from "../../widgets/tripleweb_widgets/static/cells.js";

const filter = (typed, kind) => {
  const found = filterOf("c", typed, kind);
  if (found !== null) assert.equal(found.column, "c");
  return found === null ? null : Object.fromEntries(Object.entries(found).filter(([key]) => key !== "column"));
};

test("text is found where it stands inside, whatever its case", () => {
  assert.equal(filter("  ", "s"), null);
  assert.deepEqual(filter(" ada ", "s"), { op: "contains", value: ["s", "ada"], fold: true });
  assert.deepEqual(filter("=Ada", "s"), { op: "equals", value: ["s", "Ada"] });
  assert.deepEqual(filter("a..z", "s"), { op: "contains", value: ["s", "a..z"], fold: true });
  assert.deepEqual(filter("!ada", "s"), { op: "contains", value: ["s", "ada"], fold: true, negated: true });
});

test("numbers are compared as numbers", () => {
  assert.deepEqual(filter("5", "n"), { op: "equals", value: ["n", 5] });
  assert.deepEqual(filter("> 5", "n"), { op: "range", low: ["n", 5], open: true });
  assert.deepEqual(filter("<=-5.5e3", "n"), { op: "range", high: ["n", -5500], open: false });
  assert.deepEqual(filter("2..8", "n"), { op: "range", low: ["n", 2], high: ["n", 8] });
  assert.deepEqual(filter("1,000,000", "n"), { op: "equals", value: ["n", 1_000_000] });
  assert.deepEqual(filter("=9007199254740993", "n"), { op: "equals", value: ["i", "9007199254740993"] });
  assert.throws(() => filter(">many", "n"), /a number, not many/);
  assert.throws(() => filter("=", "n"), /a number/);
});

test("a date that is not whole is all of it", () => {
  const day = { low: ["d", "2013-02-28T00:00:00.000000Z"], high: ["d", "2013-02-28T23:59:59.999999Z"] };
  assert.deepEqual(filter("2013-02-28", "d"), { op: "range", ...day });
  assert.deepEqual(filter("2012-02", "d").high, ["d", "2012-02-29T23:59:59.999999Z"]);
  assert.deepEqual(filter("2013", "d").low, ["d", "2013-01-01T00:00:00.000000Z"]);
  assert.deepEqual(filter(">2013-02", "d"), { op: "range", low: ["d", "2013-02-28T23:59:59.999999Z"], open: true });
  assert.deepEqual(filter("<2013-02", "d"), { op: "range", high: ["d", "2013-02-01T00:00:00.000000Z"], open: true });
  assert.deepEqual(filter("2013-02-28 17:30", "d").high, ["d", "2013-02-28T17:30:59.999999Z"]);
  assert.throws(() => filter("yesterday", "d"), /a date such as/);
  assert.throws(() => filter("2013-02-31 25:00", "d"), /a date such as/);
});

test("missing values and booleans", () => {
  assert.deepEqual(filter("–", "n"), { op: "missing" });
  assert.deepEqual(filter("!-", "s"), { op: "missing", negated: true });
  assert.deepEqual(filter("True", "b"), { op: "equals", value: ["b", true] });
  assert.throws(() => filter("yes", "b"), /true or false/);
  assert.throws(() => filter("!", "s"), /after the !/);
});

test("numbers read as C writes them with six digits", () => {
  const pairs = [[0.1 + 0.2, "0.3"], [1e-5, "1e-05"], [999999.7, "1e+06"], [0.00012345678, "0.000123457"]];
  for (const [number, text] of pairs) assert.equal(numberText(number), text);
});
