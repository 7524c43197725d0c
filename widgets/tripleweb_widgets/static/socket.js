// @ts-check
/**
 * The socket of a page to one app, and where its server is. One connection an app and page, however many displays and
 * widgets there are: `connection` gives the one that is there.
 *
 * Invariants: a socket is open only while a window is; after it has ended the next one comes by itself, after a pause
 * that doubles up to `PAUSE_MAX_MS`, is never the same for all, and ends early when the network or the page comes back.
 *
 * @typedef {import("./window.js").View} View
 * @typedef {import("./protocol.js").Asked} Asked
 * @typedef {import("./protocol.js").Watcher} Watcher
 * @typedef {import("./protocol.js").OpenWindow} OpenWindow
 */
import { PageCore } from "./protocol.js";

const PAUSE_MS = 300;
const PAUSE_MAX_MS = 20_000;
const TICK_MS = 2_000;
const LINGER_MS = 5_000; // a socket that no window needs
const OPENING_MS = 20_000;
const SIGNS = "0123456789abcdefghijklmnopqrstuvwxyz";

/**
 * The base address of this page's own Jupyter server, `http…/`; null where there is none. Nothing but a path is taken
 * from the page, so that what a notebook says cannot send anybody elsewhere.
 * @param {Document} page
 */
export function serverOf(page) {
  const config = page.getElementById("jupyter-config-data")?.textContent;
  if (!config) return null;
  let base;
  try {
    base = JSON.parse(config).baseUrl;
  } catch {
    return null;
  }
  if (typeof base !== "string") return null;
  const path = new URL(base, page.location.origin).pathname;
  return page.location.origin + path.replace(/\/?$/, "/");
}

export class Connection {
  /**
   * @param {string} url  of the sync socket
   * @param {typeof WebSocket} Socket
   */
  constructor(url, Socket = WebSocket) {
    this.url = url;
    this.core = new PageCore();
    this.failures = 0;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.retry = undefined;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.ticking = undefined;
    this.idleSince = 0;
    this.beganAt = 0;
    this.Socket = Socket;
  }

  /**
   * @param {Asked} asked
   * @param {View} view
   * @param {Watcher} watcher
   */
  open(asked, view, watcher) {
    const window = this.core.open(asked, view, watcher);
    this.ticking ??= setInterval(() => this.#tick(), TICK_MS);
    if (this.socket === null && this.retry === undefined) this.#connect();
    this.#flush();
    return window;
  }

  /**
   * @param {OpenWindow} window
   * @param {Partial<View>} change
   */
  scroll(window, change) {
    this.core.scroll(window, change);
    this.#flush();
  }

  /** @param {OpenWindow} window */
  close(window) {
    this.core.close(window);
    this.idleSince = Date.now();
    this.#flush();
  }

  /** The network or the page is back: tries at once. */
  hurry() {
    if (this.retry === undefined) return;
    clearTimeout(this.retry);
    this.retry = undefined;
    this.#connect();
  }

  #connect() {
    const socket = new this.Socket(this.url);
    this.socket = socket;
    this.beganAt = Date.now();
    socket.onopen = () => {
      this.core.connected(randomName(), Date.now());
      this.#flush();
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.core.take(String(data), Date.now());
      if (this.core.state === "online") this.failures = 0;
      this.#flush();
    };
    socket.onclose = () => {
      if (socket === this.socket) this.#ended();
    };
  }

  #ended() {
    this.socket = null;
    this.core.disconnected();
    if (this.core.windows.size === 0) {
      clearInterval(this.ticking);
      this.ticking = undefined;
      return;
    }
    const pause = Math.min(PAUSE_MAX_MS, PAUSE_MS * 2 ** this.failures);
    this.failures += 1;
    this.retry = setTimeout(() => {
      this.retry = undefined;
      this.#connect();
    }, Math.max(this.core.wait, pause * (0.5 + Math.random())));
  }

  #flush() {
    const socket = this.socket;
    if (socket === null || socket.readyState !== this.Socket.OPEN) return;
    for (const text of this.core.outgoing.splice(0)) socket.send(text);
    if (this.core.broken) this.#hangUp(socket);
  }

  #tick() {
    const now = Date.now();
    this.core.tick(now);
    this.#flush();
    const socket = this.socket;
    if (socket === null) return;
    const isStuck = socket.readyState === this.Socket.CONNECTING && now - this.beganAt >= OPENING_MS;
    const isIdle = this.core.windows.size === 0 && now - this.idleSince >= LINGER_MS;
    if (isStuck || isIdle) this.#hangUp(socket);
  }

  /** @param {WebSocket} socket */
  #hangUp(socket) {
    this.socket = null; // what else comes from it is not heard
    socket.close();
    this.#ended();
  }
}

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => SIGNS[byte % SIGNS.length]).join("");
}

/** @type {Map<string, Connection>} */
const connections = new Map();

/**
 * The page's connection to an app.
 * @param {string} server  its base address
 * @param {string} app
 */
export function connection(server, app) {
  const url = `${server.replace(/^http/, "ws")}api/tripleweb/v1/apps/${encodeURIComponent(app)}/sync`;
  let found = connections.get(url);
  if (found === undefined) {
    found = new Connection(url);
    connections.set(url, found);
    if (connections.size === 1) {
      addEventListener("online", hurry);
      document.addEventListener("visibilitychange", () => document.hidden || hurry());
    }
  }
  return found;
}

function hurry() {
  for (const one of connections.values()) one.hurry();
}
