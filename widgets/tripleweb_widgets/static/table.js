// @ts-check
/**
 * A window over an answer as a table for people: sorted by a click on a column, filtered by what is typed above it, one
 * page at a time, changed cells lit for a moment.
 *
 * Invariants: whatever comes from the data enters the page as text; the page is touched once an animation frame at
 * most, and only where something has changed. The table decides nothing: what a person asks for goes to `ask` as a change of
 * the view, and what is shown is what came.
 *
 * @typedef {import("./window.js").View} View
 * @typedef {import("./window.js").News} News
 * @typedef {import("./window.js").Filter} Filter
 * @typedef {import("./window.js").Cell} Cell
 * @typedef {import("./protocol.js").OpenWindow} OpenWindow
 */
import { CELL_MAX, FILTER_HELP, cellText, filterOf, isNumber, wholeText } from "./cells.js";
import { turned } from "./window.js";

export const PAGE_ROWS = 25;
const SIZES = [10, 25, 100, 500];
const COLUMNS_MAX = 100;
const TYPING_MS = 250;
const ANNOUNCE_MS = 5_000;

const STYLE = `
.tripleweb-live .body {overflow-x: auto; outline-offset: -2px}
.tripleweb-live.tripleweb-table th {padding: 0}
.tripleweb-live th button {all: unset; box-sizing: border-box; display: block; width: 100%; padding: 3px 10px;
  cursor: pointer; font-weight: 600}
.tripleweb-live th button::after {content: attr(data-mark); display: inline-block; min-width: 1.1em;
  padding-left: .2em; font-weight: 400; color: var(--jp-content-font-color2, gray)}
.tripleweb-live th.number button {text-align: right}
.tripleweb-live th button:hover {background: var(--jp-layout-color2, rgba(128, 128, 128, .15))}
.tripleweb-live button:focus-visible, .tripleweb-live input:focus-visible, .tripleweb-live select:focus-visible,
  .tripleweb-live .body:focus-visible {outline: 2px solid var(--jp-brand-color1, #1976d2)}
.tripleweb-live .filters th {border: none; padding: 2px 4px}
.tripleweb-live .filters input {box-sizing: border-box; width: 100%; min-width: 4em; font: inherit; font-weight: 400;
  padding: 1px 5px; color: inherit; background: var(--jp-layout-color1, transparent);
  border: 1px solid var(--jp-border-color1, rgba(128, 128, 128, .5)); border-radius: 3px}
.tripleweb-live .filters input[aria-invalid="true"] {border-color: var(--jp-error-color1, #d32f2f)}
.tripleweb-live .foot {display: flex; flex-wrap: wrap; align-items: center; gap: 2px 10px; margin: 5px 0 0 10px;
  font-size: var(--jp-ui-font-size0, 11px); color: var(--jp-content-font-color2, gray)}
.tripleweb-live .foot button, .tripleweb-live .foot select {font: inherit; color: inherit; background: none;
  border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, .3)); border-radius: 3px; padding: 0 6px;
  min-height: 18px; cursor: pointer}
.tripleweb-live .foot button:disabled {opacity: .35; cursor: default}
.tripleweb-live .foot button[aria-pressed="true"] {background: var(--jp-layout-color2, rgba(128, 128, 128, .2))}
.tripleweb-live .state::before {content: ""; display: inline-block; width: 7px; height: 7px; border-radius: 50%;
  margin-right: 5px; background: var(--jp-success-color1, #2e9e5b)}
.tripleweb-live .state.away::before {background: var(--jp-warn-color1, #e8912d)}
.tripleweb-live .problem {flex-basis: 100%; color: var(--jp-error-color1, #d32f2f)}
.tripleweb-live .waiting {opacity: .55}
.tripleweb-live .unseen {position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)}
@keyframes tripleweb-lit-a {from {background-color: rgba(255, 193, 7, .55)}}
@keyframes tripleweb-lit-b {from {background-color: rgba(255, 193, 7, .55)}}
.tripleweb-live td.lit-a {animation: tripleweb-lit-a 1.4s ease-out}
.tripleweb-live td.lit-b {animation: tripleweb-lit-b 1.4s ease-out}
@media (prefers-reduced-motion: reduce) {
  .tripleweb-live td.lit-a, .tripleweb-live td.lit-b {animation-timing-function: steps(1, end)}}
@media print {.tripleweb-live .foot button, .tripleweb-live .foot select, .tripleweb-live .filters {display: none}}
`;

export class TableView {
  /**
   * @param {Document} page
   * @param {(change: Partial<View>) => void} ask
   */
  constructor(page, ask) {
    this.page = page;
    this.ask = ask;
    /** @type {OpenWindow | null} */
    this.window = null;
    this.isDrawing = false;
    this.isReset = true;
    /** @type {Map<number, Set<number> | null>} key -> columns that are lit at the next drawing; null: all */
    this.lit = new Map();
    /** @type {Map<number, HTMLTableRowElement>} */
    this.drawn = new Map();
    /** @type {Map<string, string>} column -> what is typed there */
    this.typed = new Map();
    /** What was typed for the filters that were asked for last, and for those that are shown. */
    this.asked = new Map();
    this.stood = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.typing = undefined;
    this.isFiltering = false;
    this.columns = "";
    /** @type {Map<number, string>} of what kind a column was when it last had values */
    this.kinds = new Map();
    this.blink = false;
    this.announcedAt = 0;
    this.isOver = false;

    addStyle(page);
    this.root = this.#make("div", "tripleweb-table tripleweb-live");
    this.body = this.#make("div", "body", this.root);
    this.body.tabIndex = 0;
    this.body.setAttribute("role", "region");
    this.body.setAttribute("aria-label", "live table");
    this.body.addEventListener("keydown", (event) => this.#key(event));
    this.table = this.#make("table", "", this.body);
    this.table.createCaption().className = "unseen";
    this.head = this.table.createTHead();
    this.rows = this.table.createTBody();
    const foot = this.#make("div", "foot", this.root);
    this.count = this.#make("span", "count", foot);
    this.back = this.#button("‹", "previous page", foot, () => this.#turn(-1));
    this.forth = this.#button("›", "next page", foot, () => this.#turn(1));
    this.size = this.#make("select", "", foot);
    this.size.setAttribute("aria-label", "rows a page");
    for (const size of SIZES) this.size.add(new Option(`${size} rows`, String(size)));
    this.size.value = String(PAGE_ROWS);
    this.size.addEventListener("change", () => this.#look({ first: 0, count: Number(this.size.value) }));
    this.filtering = this.#button("filter", "show the filters", foot, () => this.#toggleFilters());
    this.state = this.#make("span", "state away", foot);
    this.said = this.#make("span", "unseen", foot);
    this.said.setAttribute("aria-live", "polite");
    this.problem = this.#make("span", "problem", foot);
    this.problem.setAttribute("role", "alert");
  }

  /**
   * @param {OpenWindow} window
   * @param {News} news
   */
  shown(window, news) {
    const isOther = this.window === null;
    this.window = window;
    this.isOver = false;
    if (window.isCurrent) this.stood = this.asked;
    if (news.reset) {
      this.isReset = true;
      this.lit.clear();
    } else if (!isOther) {
      for (const key of news.inserted) this.lit.set(key, null);
      for (const [key, columns] of news.changed) {
        const before = this.lit.get(key);
        if (before !== null) this.lit.set(key, new Set([...(before ?? []), ...columns]));
      }
    }
    this.#soon();
  }

  /**
   * What was asked for cannot be shown.
   * @param {string} message  why
   * @param {View | null} back  what is shown instead; null: nothing is any more
   */
  failed(message, back) {
    this.isOver = back === null;
    setText(this.problem, back === null ? message : `as before, since that cannot be shown: ${message}`);
    if (back !== null) {
      this.size.value = String(back.count);
      const filtered = new Set((back.filters ?? []).map(({ column }) => column));
      this.asked = new Map([...this.stood].filter(([name]) => filtered.has(name)));
      this.typed = new Map(this.asked);
      for (const [at, name] of (this.window?.model.columns ?? []).entries()) {
        const input = this.head.rows[1]?.cells[at]?.querySelector("input");
        if (input) input.value = this.typed.get(name) ?? "";
      }
    }
    this.#soon();
  }

  /** @param {Partial<View>} change */
  #look(change) {
    setText(this.problem, "");
    this.ask(change);
  }

  /** The connection is gone; it comes back by itself. */
  stale() {
    this.#soon();
  }

  #soon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.#draw();
    });
  }

  #draw() {
    const window = this.window;
    if (window === null) return;
    this.#drawHead(window);
    this.#drawRows(window);
    const { first, rows, matching, total } = window.model;
    setText(this.count, countText(first, rows.length, matching, total));
    this.back.disabled = first === 0;
    this.forth.disabled = first + rows.length >= matching;
    const hidesPages = matching <= PAGE_ROWS && first === 0;
    for (const one of [this.back, this.forth, this.size]) one.hidden = hidesPages;
    setText(this.state, this.isOver ? "no longer live" : window.isLive ? "live" : "reconnecting…");
    this.state.classList.toggle("away", this.isOver || !window.isLive);
    if (window.isCurrent && rows.length === 0 && matching > 0 && first > 0) this.#turn(0); // they went away
    this.rows.classList.toggle("waiting", window.isLive && !window.isCurrent);
    const caption = /** @type {HTMLElement} */ (this.table.caption);
    setText(caption, `live table of ${count(matching)} rows: ${window.model.columns.join(", ")}`);
  }

  /** @param {OpenWindow} window */
  #drawHead(window) {
    const { columns, rows } = window.model;
    const names = columns.slice(0, COLUMNS_MAX);
    const order = new Map((window.view.order ?? []).map(([name, direction], at) => [name, { direction, at }]));
    if (this.columns !== JSON.stringify(names)) {
      this.columns = JSON.stringify(names);
      this.drawn.clear();
      this.rows.replaceChildren();
      this.head.replaceChildren(this.#make("tr"), this.#make("tr", "filters"));
      const [titles, filters] = this.head.rows;
      for (const name of names) {
        const cell = this.#make("th", "", titles);
        cell.scope = "col";
        this.#button(cellText(["s", name]), "", cell, (event) => this.#sort(name, event.shiftKey));
        this.#filterInput(name, this.#make("th", "", filters));
      }
      if (columns.length > names.length) this.#make("th", "", titles).textContent = "…";
    }
    const [titles, filters] = this.head.rows;
    names.forEach((name, at) => {
      const cell = /** @type {HTMLTableCellElement} */ (titles?.cells[at]);
      const button = /** @type {HTMLElement} */ (cell.firstElementChild);
      const sorted = order.get(name);
      cell.classList.toggle("number", rows.some((row) => isNumber(row.cells[at] ?? ["", null])));
      cell.setAttribute("aria-sort", sorted ? (sorted.direction === "asc" ? "ascending" : "descending") : "none");
      const place = sorted && order.size > 1 ? String(sorted.at + 1) : "";
      const mark = sorted ? (sorted.direction === "asc" ? "▲" : "▼") + place : "";
      if (button.dataset["mark"] !== mark) button.dataset["mark"] = mark;
    });
    if (filters) filters.hidden = !this.isFiltering;
    this.filtering.setAttribute("aria-pressed", String(this.isFiltering));
  }

  /** @param {OpenWindow} window */
  #drawRows(window) {
    const { rows, columns } = window.model;
    const width = Math.min(columns.length, COLUMNS_MAX);
    this.blink = !this.blink;
    let cells = 0;
    /** @type {Map<number, HTMLTableRowElement>} */
    const drawn = new Map();
    /** @type {ChildNode | null} */
    let place = this.rows.firstChild;
    for (const row of rows) {
      let line = this.isReset ? undefined : this.drawn.get(row.key);
      const lit = this.lit.get(row.key);
      if (line === undefined) {
        line = this.#make("tr");
        for (let at = 0; at < width; at++) this.#fill(line.insertCell(), row.cells[at]);
      } else if (lit) {
        for (const at of lit) if (at < width) this.#fill(/** @type {HTMLElement} */ (line.cells[at]), row.cells[at]);
      }
      if (lit !== undefined) {
        for (const at of lit ?? Array.from(line.cells, (_, number) => number)) {
          const cell = line.cells[at];
          cell?.classList.remove("lit-a", "lit-b");
          cell?.classList.add(this.blink ? "lit-a" : "lit-b");
          cells += 1;
        }
      }
      drawn.set(row.key, line);
      if (line === place) place = place.nextSibling;
      else this.rows.insertBefore(line, place);
    }
    while (place !== null) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
    this.drawn = drawn;
    this.isReset = false;
    this.lit.clear();
    if (cells) this.#announce(cells);
  }

  /**
   * @param {HTMLElement} place
   * @param {Cell | undefined} cell
   */
  #fill(place, cell = ["", null]) {
    const text = cellText(cell);
    setText(place, text);
    place.className = isNumber(cell) ? "number" : cell[1] === null ? "missing" : "";
    if (text.length >= CELL_MAX) place.title = wholeText(cell);
    else place.removeAttribute("title");
  }

  /** Says to those who listen to the page that it has changed, now and then. @param {number} cells */
  #announce(cells) {
    const now = Date.now();
    if (now - this.announcedAt < ANNOUNCE_MS) return;
    this.announcedAt = now;
    setText(this.said, `${cells} cell${cells === 1 ? "" : "s"} changed at ${new Date(now).toLocaleTimeString()}`);
  }

  /**
   * A click on a column: ascending, descending, as it was; with the shift key beside the columns that are sorted by.
   * @param {string} name
   * @param {boolean} isAdded
   */
  #sort(name, isAdded) {
    const order = this.window?.view.order ?? [];
    const before = order.find(([one]) => one === name)?.[1];
    const next = before === undefined ? "asc" : before === "asc" ? "desc" : null;
    /** @type {[string, "asc" | "desc"][]} */
    let sorted;
    if (!isAdded) sorted = next ? [[name, next]] : [];
    else if (before === undefined) sorted = [...order, [name, "asc"]];
    else if (next === null) sorted = order.filter(([one]) => one !== name);
    else sorted = order.map(([one, direction]) => (one === name ? [one, next] : [one, direction]));
    this.#look({ order: sorted, first: 0 });
    this.#soon();
  }

  /**
   * @param {string} name
   * @param {HTMLElement} place
   */
  #filterInput(name, place) {
    const input = this.#make("input", "", place);
    input.type = "search";
    input.size = 6;
    input.title = FILTER_HELP;
    input.value = this.typed.get(name) ?? "";
    input.setAttribute("aria-label", `filter ${name}`);
    input.addEventListener("input", () => {
      this.typed.set(name, input.value);
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.#filter(), TYPING_MS);
    });
    // The notebook has keys of its own, which are not meant here.
    input.addEventListener("keydown", (event) => event.stopPropagation());
  }

  #filter() {
    /** @type {Filter[]} */
    const filters = [];
    const columns = this.window?.model.columns ?? [];
    const inputs = this.head.rows[1]?.querySelectorAll("input") ?? [];
    columns.slice(0, inputs.length).forEach((name, at) => {
      const input = /** @type {HTMLInputElement} */ (inputs[at]);
      let problem = "";
      try {
        const found = filterOf(name, input.value, this.#kind(at));
        if (found) filters.push(found);
      } catch (error) {
        problem = /** @type {Error} */ (error).message;
      }
      input.setAttribute("aria-invalid", String(problem !== ""));
      input.title = problem ? `expected: ${problem}` : FILTER_HELP;
    });
    this.asked = new Map(this.typed);
    this.#look({ filters, first: 0 });
    this.#soon();
  }

  /** The kind of most values of a column on this page; text where there are none. @param {number} at */
  #kind(at) {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const row of this.window?.model.rows ?? []) {
      const [kind, value] = row.cells[at] ?? ["", null];
      if (value !== null) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    const most = [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? this.kinds.get(at) ?? "s";
    const kind = most === "i" ? "n" : most === "r" || most === "j" ? "s" : most;
    this.kinds.set(at, kind);
    return kind;
  }

  #toggleFilters() {
    this.isFiltering = !this.isFiltering;
    if (!this.isFiltering && [...this.typed.values()].some(Boolean)) {
      this.typed.clear();
      for (const input of this.head.querySelectorAll("input")) input.value = "";
      this.#filter();
    }
    this.#soon();
    if (this.isFiltering) requestAnimationFrame(() => this.head.querySelector("input")?.focus());
  }

  /** @param {number} pages */
  #turn(pages) {
    const { view, model } = this.window ?? {};
    if (!view || !model) return;
    const first = turned(view, model.matching, pages);
    if (first !== view.first) this.#look({ first });
    this.#soon();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const pages = { PageDown: 1, PageUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (pages === undefined || event.target !== this.body) return;
    event.preventDefault();
    event.stopPropagation();
    this.#turn(pages);
  }

  /**
   * @template {keyof HTMLElementTagNameMap} Tag
   * @param {Tag} tag
   * @param {string} names
   * @param {HTMLElement} [parent]
   * @returns {HTMLElementTagNameMap[Tag]}
   */
  #make(tag, names = "", parent) {
    const made = this.page.createElement(tag);
    if (names) made.className = names;
    parent?.append(made);
    return made;
  }

  /**
   * @param {string} text
   * @param {string} title
   * @param {HTMLElement} parent
   * @param {(event: MouseEvent) => void} act
   */
  #button(text, title, parent, act) {
    const made = this.#make("button", "", parent);
    made.type = "button";
    made.textContent = text;
    if (title) made.setAttribute("aria-label", title);
    made.addEventListener("click", act);
    return made;
  }
}

/**
 * Which rows are shown, of how many that match, of how many.
 * @param {number} first
 * @param {number} shown
 * @param {number} matching
 * @param {number} total
 */
export function countText(first, shown, matching, total) {
  const rows = total === 1 ? "row" : "rows";
  if (shown === total) return `${count(total)} ${rows}`;
  if (shown === matching) return `${count(matching)} of ${count(total)} ${rows}`;
  const some = shown ? `${count(first + 1)}–${count(first + shown)}` : "none";
  const all = matching === total ? "" : ` (of ${count(total)})`;
  return `showing ${some} of ${count(matching)}${all} ${rows}`;
}

/** @param {number} number */
function count(number) {
  return number.toLocaleString("en-US");
}

/**
 * @param {HTMLElement} place
 * @param {string} text
 */
function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** @param {Document} page */
function addStyle(page) {
  if (page.getElementById("tripleweb-live-style")) return;
  const style = page.createElement("style");
  style.id = "tripleweb-live-style";
  style.textContent = STYLE;
  page.head.append(style);
}
