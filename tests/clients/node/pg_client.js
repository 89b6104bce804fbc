// node-postgres.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { pipeline as pipe } from "node:stream/promises";
import pg from "pg";
import copyStreams from "pg-copy-streams";
import * as c from "./checks.js";

const { version } = createRequire(import.meta.url)("pg/package.json");
const TLS = { ssl: { rejectUnauthorized: false } };

async function connect(settings = {}) {
  const client = new pg.Client({ ...c.CONNECTION, ...settings });
  await client.connect();
  return client;
}

async function using(settings, work) {
  const client = await connect(settings);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const isEncrypted = (client) => Boolean(client.connection.stream.encrypted);
const one = async (client, text, values) => (await client.query(text, values)).rows[0];

await c.report(version, {
  tls: () => using(TLS, async (client) => assert(isEncrypted(client) && (await one(client, "SELECT 1 AS n")).n === 1)),
  plain: () => using({}, async (client) => assert(!isEncrypted(client) && (await one(client, "SELECT 1 AS n")).n === 1)),
  parameters: () =>
    using({}, async (client) => {
      const row = { id: 1, name: c.TEXT, price: c.PRICE, data: c.DATA, made: c.MADE, doc: c.DOCUMENT };
      await client.query("DELETE FROM items");
      await client.query("INSERT INTO items (id, name, price, data, made, doc) VALUES ($1, $2, $3, $4, $5, $6)", Object.values(row));
      assert.deepEqual(await one(client, "SELECT id, name, price, data, made, doc FROM items"), row);
    }),
  transaction: () =>
    using({}, async (client) => {
      await client.query("BEGIN; DELETE FROM items; INSERT INTO items (id) VALUES (1); COMMIT");
      await client.query("BEGIN");
      await client.query("DELETE FROM items");
      await client.query("ROLLBACK");
      assert.deepEqual((await one(client, "SELECT array_agg(id) AS ids FROM items")).ids, [1]);
    }),
  copy: () =>
    using(TLS, async (client) => {
      await client.query("DELETE FROM items");
      const lines = Array.from({ length: 50_000 }, (_, n) => `${n}\tname\n`);
      await pipe(Readable.from(lines), client.query(copyStreams.from("COPY items (id, name) FROM STDIN")));
      let read = "";
      for await (const part of client.query(copyStreams.to("COPY items (id, name) TO STDOUT"))) read += part;
      assert.equal(read.split("\tname\n").length - 1, 50_000);
    }),
  cancel: async () => {
    // The driver's own cancel: a connection of its own with the session's key.
    await using({}, (other) =>
      using({}, async (client) => {
        const slept = assert.rejects(client.query(c.SLEEP), { code: "57014" });
        await c.waitFor(async () => (await one(other, c.SLEEPERS)).n === 1);
        const canceller = new pg.Connection();
        canceller.connect(c.CONNECTION.port, c.CONNECTION.host);
        canceller.on("connect", () => canceller.cancel(client.processID, client.secretKey));
        await slept;
        canceller.end();
        assert.equal((await one(client, "SELECT 1 AS n")).n, 1);
      }),
    );
  },
  refused: async () => {
    await assert.rejects(connect({ password: "wrong" }), { code: "28P01" });
    await assert.rejects(connect({ database: c.UNKNOWN_DATABASE }), (refusal) => refusal.message.includes(c.UNKNOWN_DATABASE));
  },
  prepared: () =>
    using({}, async (client) => {
      for (let n = 0; n < 100; n++) {
        const { rows } = await client.query({ name: "increment", text: "SELECT $1::int + 1 AS n", values: [n] });
        assert.equal(rows[0].n, n + 1);
      }
    }),
  pipeline: () =>
    using({ pipelining: true }, async (client) => {
      const answers = await Promise.all(Array.from({ length: 500 }, (_, n) => one(client, "SELECT $1::int AS n", [n])));
      assert.deepEqual(answers.map(({ n }) => n), Array.from({ length: 500 }, (_, n) => n));
    }),
  notify: () =>
    using({}, (listener) =>
      using({}, async (speaker) => {
        const heard = new Promise((hear) => listener.on("notification", hear));
        await listener.query("LISTEN channel");
        await speaker.query("NOTIFY channel, 'hello'");
        assert.equal((await heard).payload, "hello");
      }),
    ),
  large: () =>
    using(TLS, async (client) => {
      const { rows } = await client.query(c.LARGE);
      assert.equal(rows.reduce((sum, { text }) => sum + text.length, 0), c.LARGE_BYTES);
    }),
  concurrent: async () => {
    const pool = new pg.Pool({ ...c.CONNECTION, max: c.CONNECTIONS });
    const clients = await Promise.all(Array.from({ length: c.CONNECTIONS }, () => pool.connect()));
    const pids = await Promise.all(clients.map(async (client) => (await one(client, "SELECT pg_backend_pid() AS pid")).pid));
    assert.equal(new Set(pids).size, c.CONNECTIONS);
    clients.forEach((client) => client.release());
    await pool.end();
  },
  unicode: () => using({}, async (client) => assert.equal((await one(client, "SELECT $1::text AS t", [c.UNICODE])).t, c.UNICODE)),
  nulls: () =>
    using({}, async (client) =>
      assert.deepEqual(await one(client, "SELECT $1::int AS a, $2::text AS b, '' AS c", [null, null]), { a: null, b: null, c: "" }),
    ),
  arrays: () =>
    using({}, async (client) => {
      const row = { a: [1, null, 3], b: ["a", 'b"c', "{,}", "", null] };
      assert.deepEqual(await one(client, "SELECT $1::int[] AS a, $2::text[] AS b", [row.a, row.b]), row);
    }),
  timezones: () =>
    using({ options: "-c TimeZone=Asia/Kathmandu" }, async (client) => {
      const { at, text } = await one(client, "SELECT $1::timestamptz AS at, $1::timestamptz::text AS text", [c.MADE]);
      assert.equal(at.getTime(), c.MADE.getTime());
      assert.equal(text, "2026-03-29 15:30:00.123+05:45");
    }),
});
