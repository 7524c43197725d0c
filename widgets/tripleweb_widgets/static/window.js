// @ts-check
/**
 * What a page has of one window over an answer: its rows in order, each under the key that it keeps until the next
 * reset. `tripleweb/sync/messages.py` specifies the frames.
 *
 * Invariants: only frames change it, each of them once and in the order in which they were counted; what does not fit
 * raises, and leaves the window as it was no more, so that its connection has to begin anew.
 *
 * @typedef {[string, string | number | boolean | null]} Cell  its kind, its value
 * @typedef {{key: number, cells: Cell[]}} Row
 * @typedef {{column: string, op: string, value?: Cell, values?: Cell[], low?: Cell, high?: Cell, open?: boolean,
 *   fold?: boolean, negated?: boolean}} Filter
 * @typedef {{count: number, first?: number, order?: [string, "asc" | "desc"][], filters?: Filter[],
 *   columns?: string[], paused?: boolean, turn?: number}} View
 * @typedef {{t: "window", id: string, epoch: string, seq: number, total: number, matching: number, first?: number,
 *   turn?: number, reset?: boolean, columns?: string[], rows?: [number, Cell[]][], removed?: number[],
 *   moved?: [number, number][], inserted?: [number, number, Cell[]][], changed?: [number, Cell[]][],
 *   n?: number}} WindowFrame
 * @typedef {{reset: boolean, inserted: Set<number>, changed: Map<number, Set<number>>}} News
 *   inserted: keys of rows; changed: key -> numbers of the columns whose cells are others now
 */

/** A frame that cannot be: something was lost, or came twice. */
export class FrameError extends Error {}

export class WindowModel {
  constructor() {
    /** @type {string[]} */
    this.columns = [];
    /** @type {Row[]} */
    this.rows = [];
    this.first = 0;
    this.total = 0;
    this.matching = 0;
    this.turn = 0;
    this.frames = 0;
  }

  /**
   * Takes a frame in and says what it has changed.
   * @param {WindowFrame} frame
   * @returns {News}
   */
  apply(frame) {
    this.frames += 1;
    if (frame.n !== this.frames) {
      throw new FrameError(`frame ${frame.n} of window ${frame.id} came where ${this.frames} was due`);
    }
    this.first = frame.first ?? 0;
    this.turn = frame.turn ?? 0;
    this.total = frame.total;
    this.matching = frame.matching;
    if (frame.reset) {
      this.columns = frame.columns ?? [];
      this.rows = (frame.rows ?? []).map(([key, cells]) => ({ key, cells }));
      return { reset: true, inserted: new Set(), changed: new Map() };
    }
    return { reset: false, inserted: this.#place(frame), changed: this.#change(frame.changed ?? []) };
  }

  /**
   * Takes rows out, and puts in those that are new or stand elsewhere: the n-th row of the result is placed n-th.
   * @param {WindowFrame} frame
   */
  #place(frame) {
    const { removed = [], moved = [], inserted = [] } = frame;
    if (!(removed.length || moved.length || inserted.length)) return new Set();
    const old = new Map(this.rows.map((row) => [row.key, row]));
    const leaving = new Set([...removed, ...moved.map(([, key]) => key)]);
    const staying = this.rows.filter((row) => !leaving.has(row.key));
    if (staying.length + leaving.size !== this.rows.length) throw new FrameError("a row left that was not there");
    /** @type {Map<number, Row>} */
    const placed = new Map();
    for (const [at, key] of moved) placed.set(at, /** @type {Row} */ (old.get(key)));
    for (const [at, key, cells] of inserted) placed.set(at, { key, cells });
    const rows = [];
    let next = 0;
    for (let at = 0; at < staying.length + placed.size; at++) {
      const row = placed.get(at) ?? staying[next++];
      if (row === undefined) throw new FrameError(`no row for place ${at}`);
      rows.push(row);
    }
    this.rows = rows;
    return new Set(inserted.map(([, key]) => key));
  }

  /** @param {[number, Cell[]][]} changed */
  #change(changed) {
    /** @type {Map<number, Set<number>>} */
    const news = new Map();
    if (!changed.length) return news;
    const rows = new Map(this.rows.map((row) => [row.key, row]));
    for (const [key, cells] of changed) {
      const row = rows.get(key);
      if (row === undefined) throw new FrameError("a row changed that is not there");
      const columns = new Set();
      cells.forEach((cell, column) => {
        if (!isSame(cell, row.cells[column])) columns.add(column);
      });
      row.cells = cells;
      news.set(key, columns);
    }
    return news;
  }
}

/**
 * Where a page begins that is so many pages further on than a view, of as many rows as there are now.
 * @param {View} view
 * @param {number} matching
 * @param {number} pages
 */
export function turned(view, matching, pages) {
  const last = Math.max(0, Math.ceil(matching / view.count) - 1);
  return view.count * Math.min(last, Math.max(0, Math.round((view.first ?? 0) / view.count) + pages));
}

/**
 * Which view to show where one cannot be: as it last was, then the plainest; null if that was the one.
 * @param {View} view
 * @param {View} shown  what was last shown
 * @param {View} plain
 * @returns {View | null}
 */
export function fallback(view, shown, plain) {
  /** @param {View} one */
  const look = ({ count, order = [], filters = [] }) => JSON.stringify([count, order, filters]);
  const next = [shown, plain].find((one) => look(one) !== look(view));
  const wasPlain = look(view) === look(plain);
  if (next === undefined || wasPlain) return null;
  return { ...view, first: 0, count: next.count, order: next.order ?? [], filters: next.filters ?? [] };
}

/**
 * @param {Cell} a
 * @param {Cell | undefined} b
 */
export function isSame(a, b) {
  return b !== undefined && a[0] === b[0] && a[1] === b[1];
}
