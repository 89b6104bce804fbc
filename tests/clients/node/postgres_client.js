// postgres.js, which sends queries in a pipeline without being asked to.

import assert from 'node:assert/strict'
import { pipeline as pump } from 'node:stream/promises'
import { Readable, Writable } from 'node:stream'
import postgres from 'postgres'
import * as checks from './checks.js'

const TLS = 'require'

const connect = (more = {}) => postgres({ ...checks.ACCOUNT, username: checks.ACCOUNT.user, max: 1, onnotice: () => {}, ...more })

/** A pool for the time of `work`. */
async function within(work, more) {
  const sql = connect(more)
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

const answers = (ssl) => within(async (sql) => assert.equal((await sql`SELECT 1 AS one`)[0].one, 1), { ssl })

function parameters() {
  return within(async (sql) => {
    await sql`DELETE FROM items`
    await sql`INSERT INTO items (id, name, price, data, doc, made, mood)
      VALUES (1, ${checks.TEXT}, ${checks.PRICE}, ${checks.DATA}, ${sql.json(checks.DOCUMENT)}, ${checks.MADE}, 'happy')`
    const [found] = await sql`SELECT id, name, price, data, doc, made, mood FROM items WHERE id = ${1}`
    const { TEXT: name, PRICE: price, DATA: data, DOCUMENT: doc, MADE: made } = checks
    assert.deepEqual({ ...found }, { id: 1, name, price, data, doc, made, mood: 'happy' })
    // Several rows of parameters in one statement.
    await sql`INSERT INTO items ${sql([{ id: 2, name: 'two' }, { id: 3, name: 'three' }])}`
    assert.equal((await sql`SELECT * FROM items WHERE id = ANY(${[2, 3]})`).length, 2)
  })
}

function transaction() {
  return within(async (sql) => {
    await sql.begin(async (sql) => {
      await sql`DELETE FROM items`
      await sql`INSERT INTO items (id) VALUES (1)`
      await sql.savepoint(async (sql) => {
        await sql`INSERT INTO items (id) VALUES (2)`
        throw new Error('undo')
      }).catch((fault) => assert.equal(fault.message, 'undo'))
    })
    await checks.refuses(sql.begin((sql) => [sql`DELETE FROM items`, sql`SELECT 1/0`]), '22012')
    assert.deepEqual([...await sql`SELECT id FROM items`], [{ id: 1 }])
  })
}

function copy() {
  return within(async (sql) => {
    await sql`DELETE FROM items`
    const lines = Array.from({ length: 50_000 }, (_, n) => `${n}\tname\n`)
    await pump(Readable.from(lines), await sql`COPY items (id, name) FROM STDIN`.writable())
    let len = 0
    const count = new Writable({ write: (part, _, done) => ((len += part.length), done()) })
    await pump(await sql`COPY items (id, name) TO STDOUT`.readable(), count)
    assert.equal(len, lines.join('').length)
  }, { ssl: TLS })
}

async function cancel() {
  for (const ssl of [false, TLS]) {
    await within(async (sql) => {
      const query = sql.unsafe(checks.SLEEP)
      const ended = checks.refuses(query.execute(), '57014')
      await within((other) => checks.waitFor(async () => (await other.unsafe(checks.SLEEPERS))[0].n === 1))
      await query.cancel()
      await ended
      await sql`SELECT 1`
    }, { ssl })
  }
}

async function refused() {
  for (const ssl of [false, TLS]) {
    await checks.refuses(within((sql) => sql`SELECT 1`, { ssl, password: 'wrong' }), '28P01')
    await checks.refuses(within((sql) => sql`SELECT 1`, { ssl, database: checks.UNKNOWN_DATABASE }), '3D000')
  }
}

function prepared() {
  return within(async (sql) => {
    for (let n = 0; n < 200; n++) assert.equal((await sql`SELECT ${n}::int + 1 AS more`)[0].more, n + 1)
    assert.equal((await sql`SELECT count(*)::int AS n FROM pg_prepared_statements WHERE statement LIKE '%+ 1 AS more'`)[0].n, 1)
  })
}

function pipeline() {
  return within(async (sql) => {
    const numbers = Array.from({ length: 1000 }, (_, n) => n)
    const answers = await Promise.all(numbers.map((n) => sql`SELECT ${n}::int AS n`))
    assert.deepEqual(answers.map(([row]) => row.n), numbers)
    // An error in the middle belongs to its own query only.
    const mixed = await Promise.allSettled([sql`SELECT 1 AS n`, sql`SELECT 1/0`, sql`SELECT 2 AS n`])
    assert.deepEqual(mixed.map((one) => one.status), ['fulfilled', 'rejected', 'fulfilled'])
  }, { ssl: TLS })
}

function notify() {
  return within(async (sql) => {
    const heard = new Promise((resolve) => (sql.heard = resolve))
    const { unlisten } = await sql.listen('channel', (payload) => sql.heard(payload))
    await sql.notify('channel', 'hello')
    assert.equal(await heard, 'hello')
    await unlisten()
  })
}

function large() {
  return within(async (sql) => {
    const rows = await sql.unsafe(checks.LARGE)
    assert.equal(rows.reduce((sum, row) => sum + row.text.length, 0), checks.LARGE_BYTES)
    let len = 0
    for await (const rows of sql.unsafe(checks.LARGE).cursor(1000)) rows.forEach((row) => (len += row.text.length))
    assert.equal(len, checks.LARGE_BYTES)
  }, { ssl: TLS })
}

function concurrent() {
  return within(async (sql) => {
    const reserved = await Promise.all(Array.from({ length: checks.CONNECTIONS }, () => sql.reserve()))
    const pids = await Promise.all(reserved.map((sql) => sql`SELECT pg_backend_pid() AS pid`))
    assert.equal(new Set(pids.map(([row]) => row.pid)).size, checks.CONNECTIONS)
    reserved.forEach((sql) => sql.release())
  }, { max: checks.CONNECTIONS })
}

await checks.report(checks.versionOf('postgres'), {
  tls: () => answers(TLS),
  plain: () => answers(false),
  parameters,
  transaction,
  copy,
  cancel,
  refused,
  prepared,
  pipeline,
  notify,
  large,
  concurrent,
  unicode: () => within(async (sql) => assert.equal((await sql`SELECT ${checks.UNICODE}::text AS text`)[0].text, checks.UNICODE)),
  nulls: () =>
    within(async (sql) => assert.deepEqual({ ...(await sql`SELECT ${null}::int AS a, ${null}::text AS b, '' AS c`)[0] }, { a: null, b: null, c: '' })),
  arrays: () =>
    within(async (sql) => {
      // The driver writes NULL in an array as text; PostgreSQL gives the same answer without the proxy.
      const row = { a: [1, 2, 3], b: ['a', 'b"c', '{,}', ''] }
      assert.deepEqual({ ...(await sql`SELECT ${row.a}::int[] AS a, ${row.b}::text[] AS b`)[0] }, row)
    }),
  timezones: () =>
    within(async (sql) => {
      const [row] = await sql`SELECT ${checks.MADE}::timestamptz AS made, ${checks.MADE}::timestamptz::text AS text`
      assert.deepEqual({ ...row }, { made: checks.MADE, text: '2026-03-29 15:30:00.123+05:45' })
    }, { connection: { TimeZone: 'Asia/Kathmandu' } }),
})
