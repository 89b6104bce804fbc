// postgres.js: every query prepared and pipelined.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline as pipe } from "node:stream/promises";
import postgres from "postgres";
import * as c from "./checks.js";

const { version } = JSON.parse(readFileSync(new URL("node_modules/postgres/package.json", import.meta.url)));

async function using(settings, work) {
  const sql = postgres({ ...c.CONNECTION, max: 1, onnotice: () => {}, ...settings });
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

const encrypted = "SELECT 1 AS n";

await c.report(version, {
  tls: () => using({ ssl: "require" }, async (sql) => assert.equal((await sql.unsafe(encrypted))[0].n, 1)),
  plain: () => using({ ssl: false }, async (sql) => assert.equal((await sql.unsafe(encrypted))[0].n, 1)),
  parameters: () =>
    using({}, async (sql) => {
      const row = { id: 1, name: c.TEXT, price: c.PRICE, data: c.DATA, made: c.MADE, doc: sql.json(c.DOCUMENT) };
      await sql`DELETE FROM items`;
      await sql`INSERT INTO items ${sql(row)}`;
      const [found] = await sql`SELECT id, name, price, data, made, doc FROM items`;
      assert.deepEqual({ ...found }, { ...row, doc: c.DOCUMENT });
    }),
  transaction: () =>
    using({}, async (sql) => {
      await sql.begin(async (sql) => {
        await sql`DELETE FROM items`;
        await sql`INSERT INTO items (id) VALUES (1)`;
      });
      const undone = sql.begin(async (sql) => {
        await sql`DELETE FROM items`;
        throw new Error("undo");
      });
      await assert.rejects(undone, /undo/);
      assert.deepEqual((await sql`SELECT array_agg(id) AS ids FROM items`)[0].ids, [1]);
    }),
  copy: () =>
    using({}, async (sql) => {
      await sql`DELETE FROM items`;
      const lines = Array.from({ length: 50_000 }, (_, n) => `${n}\tname\n`);
      await pipe(Readable.from(lines), await sql`COPY items (id, name) FROM STDIN`.writable());
      let read = "";
      for await (const part of await sql`COPY items (id, name) TO STDOUT`.readable()) read += part;
      assert.equal(read.split("\tname\n").length - 1, 50_000);
    }),
  cancel: () =>
    using({}, (other) =>
      using({}, async (sql) => {
        const query = sql.unsafe(c.SLEEP);
        const slept = assert.rejects(query, { code: "57014" });
        await c.waitFor(async () => (await other.unsafe(c.SLEEPERS))[0].n === 1);
        query.cancel();
        await slept;
        assert.equal((await sql`SELECT 1 AS n`)[0].n, 1);
      }),
    ),
  refused: async () => {
    await assert.rejects(using({ password: "wrong" }, (sql) => sql`SELECT 1`), { code: "28P01" });
    await assert.rejects(using({ database: c.UNKNOWN_DATABASE }, (sql) => sql`SELECT 1`), (refusal) =>
      refusal.message.includes(c.UNKNOWN_DATABASE),
    );
  },
  prepared: () =>
    using({}, async (sql) => {
      for (let n = 0; n < 100; n++) assert.equal((await sql`SELECT ${n}::int + 1 AS n`)[0].n, n + 1);
      assert.equal((await sql`SELECT count(*)::int AS n FROM pg_prepared_statements WHERE statement LIKE '%::int + 1 AS n'`)[0].n, 1);
    }),
  pipeline: () =>
    using({}, async (sql) => {
      const answers = await Promise.all(Array.from({ length: 500 }, (_, n) => sql`SELECT ${n}::int AS n`));
      assert.deepEqual(answers.map(([{ n }]) => n), Array.from({ length: 500 }, (_, n) => n));
    }),
  notify: () =>
    using({}, async (sql) => {
      let hear;
      const heard = new Promise((resolve) => (hear = resolve));
      await sql.listen("channel", hear);
      await sql.notify("channel", "hello");
      assert.equal(await heard, "hello");
    }),
  large: () =>
    using({ ssl: "require" }, async (sql) => {
      let length = 0;
      for await (const rows of sql.unsafe(c.LARGE).cursor(1000)) length += rows.reduce((sum, { text }) => sum + text.length, 0);
      assert.equal(length, c.LARGE_BYTES);
      assert.equal((await sql.unsafe(c.LARGE)).length, c.ROWS);
    }),
  concurrent: () =>
    using({ max: c.CONNECTIONS }, async (sql) => {
      const held = Array.from({ length: c.CONNECTIONS }, () => sql`SELECT pg_backend_pid() AS pid, pg_sleep(1)`);
      const pids = (await Promise.all(held)).map(([{ pid }]) => pid);
      assert.equal(new Set(pids).size, c.CONNECTIONS);
    }),
  unicode: () => using({}, async (sql) => assert.equal((await sql`SELECT ${c.UNICODE}::text AS t`)[0].t, c.UNICODE)),
  nulls: () =>
    using({}, async (sql) => {
      const [row] = await sql`SELECT ${null}::int AS a, ${null}::text AS b, '' AS c`;
      assert.deepEqual({ ...row }, { a: null, b: null, c: "" });
    }),
  arrays: () =>
    using({}, async (sql) => {
      // The driver reads NULL elements as text, past the proxy too.
      const row = { a: [1, 2, 3], b: ["a", 'b"c', "{,}", ""] };
      const [found] = await sql`SELECT ${row.a}::int[] AS a, ${row.b}::text[] AS b`;
      assert.deepEqual({ ...found }, row);
    }),
  timezones: () =>
    using({ connection: { TimeZone: "Asia/Kathmandu" } }, async (sql) => {
      const [{ at, text }] = await sql`SELECT ${c.MADE}::timestamptz AS at, ${c.MADE}::timestamptz::text AS text`;
      assert.equal(at.getTime(), c.MADE.getTime());
      assert.equal(text, "2026-03-29 15:30:00.123+05:45");
    }),
});
