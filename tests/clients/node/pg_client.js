// node-postgres.

import assert from 'node:assert/strict'
import { Readable, Writable } from 'node:stream'
import { pipeline as pump } from 'node:stream/promises'
import pg from 'pg'
import copyStreams from 'pg-copy-streams'
import * as checks from './checks.js'

const TLS = { rejectUnauthorized: false }

async function connect(more = {}) {
  const client = new pg.Client({ ...checks.ACCOUNT, ...more })
  await client.connect()
  return client
}

/** A session for the time of `work`. */
async function within(work, more) {
  const client = await connect(more)
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

const encrypted = (ssl, expected) =>
  within(async (client) => {
    assert.equal(client.connection.stream.encrypted === true, expected)
    assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: 1 }])
  }, { ssl })

function parameters() {
  return within(async (client) => {
    await client.query('DELETE FROM items')
    const row = [1, checks.TEXT, checks.PRICE, checks.DATA, checks.DOCUMENT, checks.MADE]
    await client.query('INSERT INTO items (id, name, price, data, doc, made) VALUES ($1, $2, $3, $4, $5, $6)', row)
    const query = { text: 'SELECT id, name, price, data, doc, made FROM items WHERE id = $1', values: [1], rowMode: 'array' }
    assert.deepEqual((await client.query(query)).rows, [row])
  })
}

function transaction() {
  return within(async (client) => {
    await client.query('BEGIN; DELETE FROM items; INSERT INTO items (id) VALUES (1); COMMIT')
    await client.query('BEGIN')
    await client.query('DELETE FROM items')
    await client.query('ROLLBACK')
    assert.deepEqual((await client.query('SELECT id FROM items')).rows, [{ id: 1 }])
  })
}

function copy() {
  return within(async (client) => {
    await client.query('DELETE FROM items')
    const lines = Array.from({ length: 50_000 }, (_, n) => `${n}\tname\n`)
    await pump(Readable.from(lines), client.query(copyStreams.from('COPY items (id, name) FROM STDIN')))
    let len = 0
    const count = new Writable({ write: (part, _, done) => ((len += part.length), done()) })
    await pump(client.query(copyStreams.to('COPY items (id, name) TO STDOUT')), count)
    assert.equal(len, lines.join('').length)
  }, { ssl: TLS })
}

function cancel() {
  return within(async (client) => {
    const other = await connect()
    const query = new pg.Query(checks.SLEEP)
    const ended = new Promise((resolve) => query.once('error', resolve).once('end', resolve))
    client.query(query)
    await checks.waitFor(async () => (await other.query(checks.SLEEPERS)).rows[0].n === 1)
    new pg.Client(checks.ACCOUNT).cancel(client, query)
    assert.equal((await ended)?.code, '57014')
    await client.query('SELECT 1')
    await other.end()
  })
}

async function refused() {
  for (const ssl of [false, TLS]) {
    await checks.refuses(connect({ ssl, password: 'wrong' }), '28P01')
    await checks.refuses(connect({ ssl, database: checks.UNKNOWN_DATABASE }), '3D000')
  }
}

function prepared() {
  return within(async (client) => {
    for (let n = 0; n < 200; n++) {
      const query = { name: 'increment', text: 'SELECT $1::int + 1 AS more', values: [n] }
      assert.equal((await client.query(query)).rows[0].more, n + 1)
    }
    assert.equal((await client.query('SELECT count(*)::int AS n FROM pg_prepared_statements')).rows[0].n, 1)
  })
}

function pipeline() {
  return within(async (client) => {
    const answers = Array.from({ length: 500 }, (_, n) => client.query('SELECT $1::int AS n', [n]))
    assert.deepEqual((await Promise.all(answers)).map((answer) => answer.rows[0].n), Array.from({ length: 500 }, (_, n) => n))
  }, { pipeline: true })
}

function notify() {
  return within(async (client) => {
    const heard = new Promise((resolve) => client.once('notification', resolve))
    await client.query('LISTEN channel')
    await within((speaker) => speaker.query("SELECT pg_notify('channel', 'hello')"))
    const { channel, payload } = await heard
    assert.deepEqual([channel, payload], ['channel', 'hello'])
  })
}

function large() {
  return within(async (client) => {
    const { rows } = await client.query(checks.LARGE)
    assert.equal(rows.reduce((sum, row) => sum + row.text.length, 0), checks.LARGE_BYTES)
  }, { ssl: TLS })
}

async function concurrent() {
  const pool = new pg.Pool({ ...checks.ACCOUNT, max: checks.CONNECTIONS })
  const clients = await Promise.all(Array.from({ length: checks.CONNECTIONS }, () => pool.connect()))
  const pids = await Promise.all(clients.map((client) => client.query('SELECT pg_backend_pid() AS pid')))
  assert.equal(new Set(pids.map((answer) => answer.rows[0].pid)).size, checks.CONNECTIONS)
  clients.forEach((client) => client.release())
  await pool.end()
}

const value = (text, values, more) =>
  within(async (client) => (await client.query({ text, values, rowMode: 'array' })).rows[0], more)

await checks.report(checks.versionOf('pg'), {
  tls: () => encrypted(TLS, true),
  plain: () => encrypted(false, false),
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
  unicode: async () => assert.deepEqual(await value('SELECT $1::text', [checks.UNICODE]), [checks.UNICODE]),
  nulls: async () => assert.deepEqual(await value("SELECT $1::int, $2::text, ''", [null, null]), [null, null, '']),
  async arrays() {
    const row = [[1, null, 3], ['a', 'b"c', '{,}', '', null], [[1, 2], [3, 4]]]
    assert.deepEqual(await value('SELECT $1::int[], $2::text[], $3::int[][]', row), row)
  },
  async timezones() {
    const row = await value('SELECT $1::timestamptz, $1::timestamptz::text', [checks.MADE], { options: '-c TimeZone=Asia/Kathmandu' })
    assert.deepEqual(row, [checks.MADE, '2026-03-29 15:30:00.123+05:45'])
  },
})
