// y-websocket's own server, stored by y-leveldb in YPERSISTENCE: node y_websocket_server.mjs server PORT FOLDER
import { createRequire } from "module";

const [, , , port, folder] = process.argv;
process.env.YPERSISTENCE = folder + "/leveldb";
const require = createRequire(import.meta.url);
const { WebSocketServer } = require("ws");
const { setupWSConnection } = require("y-websocket/bin/utils");
const server = new WebSocketServer({ port: +port, host: "127.0.0.1", perMessageDeflate: false }, () => console.log("serves"));
server.on("connection", (socket, request) => setupWSConnection(socket, request));
