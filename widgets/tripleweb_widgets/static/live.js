// @ts-check
/**
 * Saved tables that come to life again: every element with `data-tripleweb-view` shows what the server of this page
 * knows under that name, as long as somebody can see it.
 *
 * Invariants: the saved table stays until the first rows have come, and for good where they never do (another server,
 * no right to read, nobody knows the view). A table out of sight is paused; one that has left the page for
 * `FORGET_MS` is closed, and opened again when it comes back. What cannot be shown the way that somebody asks for is
 * shown as it was before, and says why; what cannot be shown at all says so, and is tried again after `RETRY_MS`, when
 * it comes into sight.
 */
import { connection, serverOf } from "./socket.js";
import { PAGE_ROWS, TableView } from "./table.js";
import { fallback } from "./window.js";

const FORGET_MS = 60_000;
const RETRY_MS = 30_000;
/** @type {import("./window.js").View} */
const PLAIN = { count: PAGE_ROWS, first: 0 };

/** @type {WeakMap<Element, LiveTable>} */
const mounted = new WeakMap();
const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) mounted.get(target)?.seen(isIntersecting);
  },
  { rootMargin: "300px" }, // what is about to be scrolled to is ready when it comes
);

class LiveTable {
  /**
   * @param {HTMLElement} host
   * @param {import("./socket.js").Connection} connection
   * @param {string} published
   */
  constructor(host, connection, published) {
    this.host = host;
    this.connection = connection;
    this.published = published;
    /** @type {import("./window.js").View} */
    this.view = PLAIN;
    /** What was last shown. */
    this.shown = PLAIN;
    /** @type {import("./protocol.js").OpenWindow | null} */
    this.window = null;
    this.table = new TableView(host.ownerDocument, (change) => this.#asked(change));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.forgetting = undefined;
    this.isSeen = false;
    this.retryAt = 0;
  }

  /** @param {boolean} isSeen */
  seen(isSeen) {
    clearTimeout(this.forgetting);
    this.isSeen = isSeen;
    if (isSeen && this.window === null) this.#open();
    else this.#ask({ paused: !isSeen });
    if (!isSeen) this.forgetting = setTimeout(() => this.host.isConnected || this.#close(), FORGET_MS);
  }

  #open() {
    if (Date.now() < this.retryAt) return;
    this.window = this.connection.open({ published: this.published }, { ...this.view, paused: false }, {
      shown: (window, news) => {
        this.#takeOver();
        if (window.isCurrent) this.shown = window.view;
        this.table.shown(window, news);
      },
      failed: (_, message) => this.#failed(message),
      stale: () => this.table.stale(),
    });
  }

  /** @param {string} message */
  #failed(message) {
    this.window = null;
    const back = fallback(this.view, this.shown, PLAIN);
    this.table.failed(message, back);
    if (back === null) {
      this.retryAt = Date.now() + RETRY_MS;
      return;
    }
    this.view = back;
    if (this.isSeen) this.#open();
  }

  /** Stands where the saved table stood, and keeps its style. */
  #takeOver() {
    if (this.table.root.parentElement === this.host) return;
    const style = this.host.querySelector("style");
    this.host.replaceChildren(this.table.root);
    if (style !== null) this.table.root.prepend(style);
  }

  /** @param {Partial<import("./window.js").View>} change */
  #ask(change) {
    this.view = { ...this.view, ...change };
    if (this.window !== null) this.connection.scroll(this.window, change);
  }

  /** A person asks, also where it had been given up. @param {Partial<import("./window.js").View>} change */
  #asked(change) {
    this.retryAt = 0;
    this.#ask(change);
    if (this.window === null && this.isSeen) this.#open();
  }

  #close() {
    if (this.window !== null) this.connection.close(this.window);
    this.window = null;
  }
}

/**
 * Brings the tables of a page to life that are not yet. Called again whenever one was put there.
 * @param {ParentNode} within
 */
export function mountAll(within = document) {
  const server = serverOf(document);
  if (server === null) return;
  for (const found of within.querySelectorAll("[data-tripleweb-view]")) {
    const host = /** @type {HTMLElement} */ (found);
    const { triplewebApp: app, triplewebView: view } = host.dataset;
    if (mounted.has(host) || !app || !view) continue;
    mounted.set(host, new LiveTable(host, connection(server, app), view));
    sight.observe(host);
  }
}
