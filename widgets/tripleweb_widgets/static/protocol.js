// @ts-check
/**
 * The protocol as a page speaks it to one app: windows over answers of the server. No socket, no clock, no randomness:
 * texts and moments (milliseconds) go in, texts come out (`outgoing`), and whoever drives it owns the rest.
 *
 * Invariants: after `connected` a hello with all windows is the first thing said; what is said later counts itself.
 * An error of the other side, a silence of `SILENCE_MS` or a frame that does not fit sets `broken`, which says why:
 * then the connection is to be closed, and the next one begins with a hello again. Windows keep their rows meanwhile.
 *
 * @typedef {import("./window.js").View} View
 * @typedef {import("./window.js").News} News
 * @typedef {{query?: string, inputs?: unknown[], rules?: string, published?: string}} Asked
 * @typedef {{shown: (window: OpenWindow, news: News) => void, failed: (code: string, message: string) => void,
 *   stale: () => void}} Watcher
 */
import { FrameError, WindowModel } from "./window.js";

export const PROTOCOL = 2;
export const VIEWS = "views";
const NOTHING_KEPT = 2 ** 53; // the `next` of a client that pushes nothing and keeps nothing
const PING_MS = 10_000;
export const SILENCE_MS = 25_000;

export class OpenWindow {
  /**
   * @param {string} id
   * @param {Asked} asked
   * @param {View} view
   * @param {Watcher} watcher
   */
  constructor(id, asked, view, watcher) {
    this.id = id;
    this.asked = asked;
    this.view = view;
    this.watcher = watcher;
    this.model = new WindowModel();
    /** False until the first frame of the present connection has come. */
    this.isLive = false;
  }

  /** True if what is shown is what was asked for last. */
  get isCurrent() {
    return this.isLive && this.model.turn === (this.view.turn ?? 0);
  }

  subscription() {
    return { id: this.id, kind: "rows", ...this.asked, view: this.view };
  }
}

export class PageCore {
  constructor() {
    /** @type {Map<string, OpenWindow>} */
    this.windows = new Map();
    /** @type {"offline" | "connecting" | "online"} */
    this.state = "offline";
    this.broken = "";
    /** How long to stay away, as the server has said, in milliseconds. */
    this.wait = 0;
    this.user = "";
    /** @type {string[]} */
    this.outgoing = [];
    this.said = 0;
    this.heardAt = 0;
    this.pingedAt = 0;
    this.opened = 0;
  }

  /**
   * Looks at an answer from now on.
   * @param {Asked} asked
   * @param {View} view
   * @param {Watcher} watcher
   */
  open(asked, view, watcher) {
    this.opened += 1;
    const window = new OpenWindow(`w${this.opened}`, asked, { ...view, turn: 1 }, watcher);
    this.windows.set(window.id, window);
    if (this.state === "online") this.#say({ t: "subscribe", subscription: window.subscription() });
    return window;
  }

  /**
   * Looks otherwise: parts of the view are replaced.
   * @param {OpenWindow} window
   * @param {Partial<View>} change
   */
  scroll(window, change) {
    if (!this.windows.has(window.id)) return;
    window.view = { ...window.view, ...change, turn: (window.view.turn ?? 0) + 1 };
    if (this.state === "online") this.#say({ t: "scroll", id: window.id, view: window.view });
  }

  /** @param {OpenWindow} window */
  close(window) {
    if (this.windows.delete(window.id) && this.state === "online") this.#say({ t: "unsubscribe", id: window.id });
  }

  /**
   * A socket is open.
   * @param {string} name  12 characters of `0-9a-z`, other ones each time
   * @param {number} now
   */
  connected(name, now) {
    this.state = "connecting";
    this.broken = "";
    this.wait = 0;
    this.said = 0;
    this.heardAt = this.pingedAt = now;
    const hello = {
      t: "hello",
      protocol: [PROTOCOL, PROTOCOL],
      replica: name,
      incarnation: name,
      next: NOTHING_KEPT,
      confirmed: 0,
      now: Math.round(now),
      features: [VIEWS],
    };
    this.outgoing = [JSON.stringify(hello)];
  }

  /** The socket is gone. */
  disconnected() {
    this.state = "offline";
    this.outgoing = [];
    for (const window of [...this.windows.values()]) this.#stale(window);
  }

  /**
   * @param {string} text
   * @param {number} now
   */
  take(text, now) {
    this.heardAt = now;
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      this.broken = "what came is no frame";
      return;
    }
    if (frame.t === "fault") {
      this.wait = frame.wait ?? 0;
      this.broken = `${frame.code}: ${frame.message}`;
    } else if (frame.t === "welcome" && this.state === "connecting") {
      this.#welcomed(frame);
    } else if (frame.t === "window") {
      this.#shown(frame);
    } else if (frame.t === "failed") {
      const window = this.windows.get(frame.id);
      this.windows.delete(frame.id);
      window?.watcher.failed(frame.code, frame.message);
    }
    // What else there is belongs to replicas (an empty poke), or answers a ping.
  }

  /** @param {number} now */
  tick(now) {
    if (this.state === "offline") return;
    if (now - this.heardAt >= SILENCE_MS) this.broken = "the server is silent";
    else if (now - this.pingedAt >= PING_MS) {
      this.pingedAt = now;
      this.outgoing.push(JSON.stringify({ t: "ping", now: Math.round(now) }));
    }
  }

  /** @param {{features?: string[], user: string}} frame */
  #welcomed(frame) {
    if (!(frame.features ?? []).includes(VIEWS)) {
      this.broken = "this server shows no windows: its tripleweb is older than this page";
      this.wait = 600_000;
      return;
    }
    this.user = frame.user;
    this.state = "online";
    for (const window of this.windows.values()) {
      window.model.frames = 0;
      this.#say({ t: "subscribe", subscription: window.subscription() });
    }
  }

  /** @param {import("./window.js").WindowFrame} frame */
  #shown(frame) {
    const window = this.windows.get(frame.id);
    if (window === undefined) return; // it was closed meanwhile
    let news;
    try {
      if (!window.isLive && !frame.reset) throw new FrameError(`window ${frame.id} begins without its rows`);
      news = window.model.apply(frame);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.broken = error.message;
      return;
    }
    window.isLive = true;
    window.watcher.shown(window, news);
  }

  /** @param {OpenWindow} window */
  #stale(window) {
    if (window.isLive) {
      window.isLive = false;
      window.watcher.stale();
    }
  }

  /** @param {Record<string, unknown>} frame */
  #say(frame) {
    this.said += 1;
    this.outgoing.push(JSON.stringify({ ...frame, n: this.said }));
  }
}
