// @ts-check
/**
 * Cells as a person reads them, and what a person types as a filter. The texts are those of `tripleweb/table.py`, which
 * writes the same table into the saved notebook: a test holds the two together.
 *
 * Invariants: a text is one line of at most `CELL_MAX` characters (of code points, as Python counts) and is only ever
 * put into a page as text.
 *
 * @typedef {import("./window.js").Cell} Cell
 * @typedef {import("./window.js").Filter} Filter
 */

export const CELL_MAX = 120;
export const MISSING = "–";
const DEPTH_MAX = 20;
// Control characters, and those that end a line or turn the direction of what follows; halves of characters.
const UNPRINTABLE =
  /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const ESCAPES = new Map([["\t", "\\t"], ["\n", "\\n"], ["\r", "\\r"]]);
const DATE = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{6})Z$/;

/** @param {Cell} cell */
export function isNumber([kind]) {
  return kind === "n" || kind === "i";
}

/**
 * The cell on one line, not too long.
 * @param {Cell} cell
 */
export function cellText(cell) {
  return short(wholeText(cell));
}

/**
 * The cell on one line, as long as it is (of text: its first 1,200 characters).
 * @param {Cell} cell
 * @returns {string}
 */
export function wholeText([kind, value]) {
  if (value === null || kind === "") return MISSING;
  if (kind === "n") return numberText(/** @type {number} */ (value));
  if (kind === "b") return value ? "True" : "False";
  if (kind === "d") return dateText(String(value));
  if (kind === "j") return treeText(JSON.parse(String(value)), 0);
  return printable(String(value));
}

/** @param {string} text */
function short(text) {
  if (text.length <= CELL_MAX) return text;
  const signs = [...text];
  return signs.length <= CELL_MAX ? text : signs.slice(0, CELL_MAX - 1).join("") + "…";
}

/** @param {string} text */
function printable(text) {
  const cut = text.length > 10 * CELL_MAX ? [...text.slice(0, 20 * CELL_MAX)].slice(0, 10 * CELL_MAX).join("") : text;
  return cut.replace(UNPRINTABLE, (sign) => {
    const code = sign.charCodeAt(0);
    const hex = code.toString(16);
    return ESCAPES.get(sign) ?? (code < 256 ? `\\x${hex.padStart(2, "0")}` : `\\u${hex.padStart(4, "0")}`);
  });
}

/**
 * An integer in full, any other number with six digits, as C's `%.6g` writes it. What JSON has without a fraction is
 * an integer to a page; one that was a float differs from Python's text from a million on only.
 * @param {number} value
 */
export function numberText(value) {
  if (Number.isInteger(value) && Math.abs(value) <= Number.MAX_SAFE_INTEGER) return String(value);
  const [digits = "0", exponent = "0"] = value.toExponential(5).split("e");
  const power = Number(exponent);
  if (power < -4 || power >= 6) {
    const sign = power < 0 ? "-" : "+";
    return `${trimmed(digits)}e${sign}${String(Math.abs(power)).padStart(2, "0")}`;
  }
  return trimmed(value.toFixed(5 - power));
}

/** @param {string} digits */
function trimmed(digits) {
  return digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
}

/** @param {string} wire */
function dateText(wire) {
  const found = DATE.exec(wire);
  if (found === null) return printable(wire);
  const [, year, month, day, hour, minute, second, micro] = found;
  const text = `${year}-${month}-${day} ${hour}:${minute}`;
  if (micro !== "000000") return `${text}:${second}.${micro}`;
  return minute === "00" && second === "00" ? text : `${text}:${second}`;
}

/**
 * What was pulled, or a collection.
 * @param {unknown} tree
 * @param {number} depth
 * @returns {string}
 */
function treeText(tree, depth) {
  if (tree === null) return MISSING;
  if (typeof tree === "boolean") return tree ? "True" : "False";
  if (typeof tree === "number") return numberText(tree);
  if (typeof tree === "string") return dateText(tree);
  if (depth >= DEPTH_MAX) return "…";
  if (Array.isArray(tree)) {
    return tree.slice(0, CELL_MAX).map((part) => short(treeText(part, depth + 1))).join(", ");
  }
  return Object.entries(/** @type {object} */ (tree))
    .slice(0, CELL_MAX)
    .map(([key, part]) => `${key}: ${short(treeText(part, depth + 1))}`)
    .join(", ");
}

/** How a filter is written, for the place where one is typed. */
export const FILTER_HELP = "text it contains, =exactly, >5, <=5, 2..8, – for missing; ! before it for all others";

/**
 * What a person has typed above a column, as the server's filter; null: no filter.
 *
 * `>5 >=5 <5 <=5 2..8` are ranges of numbers, or of dates (`>2013-02`); `=x` is a value, `–` a missing one; anything
 * else is found in a column of text where it stands inside, in one of numbers, dates or booleans where it is the value.
 * `!` turns any of them round. Throws an `Error` whose message says what was expected.
 * @param {string} column
 * @param {string} typed
 * @param {string} kind  of the values that the column has: n d b s
 * @returns {Filter | null}
 */
export function filterOf(column, typed, kind) {
  let text = typed.trim();
  if (text === "") return null;
  const negated = text.startsWith("!");
  if (negated) text = text.slice(1).trim();
  const found = { column, ...simple(text, kind) };
  return negated ? { ...found, negated } : found;
}

/**
 * @param {string} text
 * @param {string} kind
 * @returns {Omit<Filter, "column">}
 */
function simple(text, kind) {
  if (text === "") throw new Error("something to look for after the !");
  if (text === MISSING || text === "-") return { op: "missing" };
  const range = /^(>=|<=|>|<)\s*(.+)$/.exec(text);
  if (range !== null) return bounded(range[1] ?? "", range[2] ?? "", kind);
  const ends = /^(.+?)\s*\.\.\s*(.+)$/.exec(text);
  if (ends !== null && kind !== "s") {
    return { op: "range", low: bound(ends[1] ?? "", kind, false), high: bound(ends[2] ?? "", kind, true) };
  }
  if (text.startsWith("=")) return { op: "equals", value: valueOf(text.slice(1).trim(), kind) };
  if (kind === "s") return { op: "contains", value: ["s", text], fold: true };
  if (kind === "d") return { op: "range", low: bound(text, kind, false), high: bound(text, kind, true) };
  return { op: "equals", value: valueOf(text, kind) };
}

/**
 * A range with one end.
 * @param {string} sign
 * @param {string} text
 * @param {string} kind
 * @returns {Omit<Filter, "column">}
 */
function bounded(sign, text, kind) {
  const open = sign.length === 1;
  if (sign.startsWith(">")) return { op: "range", low: bound(text, kind, open), open };
  return { op: "range", high: bound(text, kind, !open), open };
}

/**
 * An end of a range; of a date that is not whole the first or the last moment.
 * @param {string} text
 * @param {string} kind
 * @param {boolean} isLast
 * @returns {Cell}
 */
function bound(text, kind, isLast) {
  if (kind !== "d") return valueOf(text, kind);
  const found = /^(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?)?)?$/.exec(text.trim());
  if (found === null) throw new Error(`a date such as 2013-02-28 or 2013-02-28 17:30, not ${text}`);
  const [, year = "", month, day, hour, minute, second, micro] = found;
  const lastMonth = month ?? (isLast ? "12" : "01");
  const lastDay = String(new Date(Date.UTC(2000 + (Number(year) % 400), Number(lastMonth), 0)).getUTCDate());
  const moment = [
    `${year}-${lastMonth}-${day ?? (isLast ? lastDay : "01")}T${hour ?? (isLast ? "23" : "00")}`,
    minute ?? (isLast ? "59" : "00"),
    `${second ?? (isLast ? "59" : "00")}.${micro?.padEnd(6, "0") ?? (isLast ? "999999" : "000000")}Z`,
  ].join(":");
  if (Number.isNaN(Date.parse(moment))) throw new Error(`a date such as 2013-02-28, not ${text}`);
  return ["d", moment];
}

/**
 * @param {string} text
 * @param {string} kind
 * @returns {Cell}
 */
function valueOf(text, kind) {
  if (kind === "n") {
    const plain = text.replace(/(?<=\d)[ _,](?=\d\d\d(?!\d))/g, "");
    if (/^[+-]?\d+$/.test(plain) && !Number.isSafeInteger(Number(plain))) return ["i", plain.replace(/^\+/, "")];
    const value = Number(plain);
    if (plain === "" || !Number.isFinite(value)) throw new Error(`a number, not ${text}`);
    return ["n", value];
  }
  if (kind === "b") {
    const word = text.toLowerCase();
    if (!["true", "false"].includes(word)) throw new Error(`true or false, not ${text}`);
    return ["b", word === "true"];
  }
  if (kind === "d") return bound(text, kind, false);
  return ["s", text];
}
