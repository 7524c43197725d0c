// What the foot of a table says. (How tables behave is tested in a real browser: test_live_pages.py.)
import assert from "node:assert/strict";
import { test } from "node:test";
import { countText } from "../../widgets/tripleweb_widgets/static/table.js";

test("which rows are shown, of how many", () => {
  assert.equal(countText(0, 1, 1, 1), "1 row");
  assert.equal(countText(0, 0, 0, 0), "0 rows");
  assert.equal(countText(0, 10, 10, 10), "10 rows");
  assert.equal(countText(25, 25, 100_000, 100_000), "showing 26–50 of 100,000 rows");
  assert.equal(countText(0, 10, 10, 60), "10 of 60 rows");
  assert.equal(countText(0, 25, 1_200, 100_000), "showing 1–25 of 1,200 (of 100,000) rows");
  assert.equal(countText(50, 0, 20, 20), "showing none of 20 rows");
});
