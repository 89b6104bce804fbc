// Knex over node-postgres, and its migrations.

import assert from 'node:assert/strict'
import { pipeline as pump } from 'node:stream/promises'
import { Readable } from 'node:stream'
import copyStreams from 'pg-copy-streams'
import createKnex from 'knex'
import * as checks from './checks.js'

const TLS = { rejectUnauthorized: false }

/** A pool for the time of `work`. */
async function within(work, more = {}, max = 1) {
  const knex = createKnex({ client: 'pg', connection: { ...checks.ACCOUNT, ...more }, pool: { min: 0, max } })
  try {
    return await work(knex)
  } finally {
    await knex.destroy()
  }
}

const value = (text, values = [], more) => within(async (knex) => Object.values((await knex.raw(text, values)).rows[0]), more)
const answers = (ssl) => async () => assert.deepEqual(await value('SELECT 1', [], { ssl }), [1])

function parameters() {
  return within(async (knex) => {
    await knex('items').delete()
    const { TEXT: name, PRICE: price, DATA: data, DOCUMENT: doc, MADE: made } = checks
    const row = { id: 1, name, price, data, doc, made, mood: 'happy' }
    await knex('items').insert(row)
    assert.deepEqual(await knex('items').select(Object.keys(row)).where({ id: 1 }), [row])
    await knex('items').insert({ id: 1, name: 'again' }).onConflict('id').merge(['name'])
    assert.deepEqual(await knex('items').pluck('name'), ['again'])
  })
}

function transaction() {
  return within(async (knex) => {
    await knex.transaction(async (tx) => {
      await tx('items').delete()
      await tx('items').insert({ id: 1 })
    })
    await assert.rejects(knex.transaction(async (tx) => {
      await tx('items').delete()
      throw new Error('undo')
    }), /undo/)
    assert.deepEqual(await knex('items').pluck('id'), [1])
  })
}

function copy() {
  return within(async (knex) => {
    await knex('items').delete()
    const session = await knex.client.acquireConnection()
    const lines = Array.from({ length: 10_000 }, (_, n) => `${n}\tname\n`)
    await pump(Readable.from(lines), session.query(copyStreams.from('COPY items (id, name) FROM STDIN')))
    await knex.client.releaseConnection(session)
    assert.deepEqual(await knex('items').count({ n: '*' }), [{ n: '10000' }])
  })
}

function cancel() {
  return within(async (knex) => {
    const ended = assert.rejects(knex.raw(checks.SLEEP).timeout(2000, { cancel: true }), /timeout/)
    await checks.waitFor(async () => (await knex.raw(checks.SLEEPERS)).rows[0].n === 1)
    await ended
    await checks.waitFor(async () => (await knex.raw(checks.SLEEPERS)).rows[0].n === 0)
  }, {}, 3)
}

async function refused() {
  await checks.refuses(within((knex) => knex.raw('SELECT 1'), { password: 'wrong' }), '28P01')
  await checks.refuses(within((knex) => knex.raw('SELECT 1'), { ssl: TLS, database: checks.UNKNOWN_DATABASE }), '3D000')
}

function pipeline() {
  return within(async (knex) => {
    await knex('items').delete()
    await knex.batchInsert('items', Array.from({ length: 5000 }, (_, id) => ({ id, name: `${id}` })), 500)
    assert.deepEqual(await knex('items').count({ n: '*' }), [{ n: '5000' }])
  })
}

function large() {
  return within(async (knex) => {
    const { rows } = await knex.raw(checks.LARGE)
    assert.equal(rows.reduce((sum, row) => sum + row.text.length, 0), checks.LARGE_BYTES)
  }, { ssl: TLS })
}

function concurrent() {
  return within(async (knex) => {
    const answers = Array.from({ length: checks.CONNECTIONS }, () => knex.raw('SELECT pg_backend_pid() AS pid, pg_sleep(1)'))
    const pids = (await Promise.all(answers)).map((answer) => answer.rows[0].pid)
    assert.equal(new Set(pids).size, checks.CONNECTIONS)
  }, {}, checks.CONNECTIONS)
}

// As a project's migrations directory would hold them.
const MIGRATIONS = {
  '1_authors': {
    async up(knex) {
      await knex.schema.createTable('authors', (table) => {
        table.increments('id')
        table.string('email').notNullable().unique()
        table.enu('plan', ['free', 'pro'], { useNative: true, enumName: 'plan' }).defaultTo('free')
        table.jsonb('settings')
        table.timestamps(true, true)
      })
    },
  },
  '2_books': {
    async up(knex) {
      await knex.schema.createTable('books', (table) => {
        table.uuid('id').primary().defaultTo(knex.raw('gen_random_uuid()'))
        table.integer('author').notNullable().references('authors.id').onDelete('CASCADE').index()
        table.decimal('price', 12, 3)
        table.specificType('tags', 'text[]')
      })
      await knex.schema.alterTable('authors', (table) => {
        table.renameColumn('settings', 'options')
        table.check("email LIKE '%@%'", undefined, 'email_has_at')
      })
    },
  },
}

const STEPS = {
  migrate: () =>
    within(async (knex) => {
      const migrationSource = {
        getMigrations: async () => Object.keys(MIGRATIONS),
        getMigrationName: (name) => name,
        getMigration: async (name) => ({ down: async () => {}, ...MIGRATIONS[name] }),
      }
      const [, ran] = await knex.migrate.latest({ migrationSource })
      assert.deepEqual(ran, Object.keys(MIGRATIONS))
    }, {}, 2),
  use: () =>
    within(async (knex) => {
      const [author] = await knex('authors').insert({ email: 'ann@example.com', options: { a: 1 } }).returning('*')
      assert.equal(author.plan, 'free')
      await knex('books').insert({ author: author.id, price: '1.500', tags: ['a', 'b'] })
      const found = await knex('books').join('authors', 'authors.id', 'books.author').select('email', 'price', 'tags')
      assert.deepEqual(found, [{ email: 'ann@example.com', price: '1.500', tags: ['a', 'b'] }])
      await checks.refuses(knex('authors').insert({ email: 'nobody' }), '23514')
    }),
}

if (process.argv[2]) await checks.step(STEPS)
await checks.report(checks.versionOf('knex'), {
  tls: answers(TLS),
  plain: answers(false),
  parameters,
  transaction,
  copy,
  cancel,
  refused,
  pipeline,
  large,
  concurrent,
  unicode: async () => assert.deepEqual(await value('SELECT ?::text', [checks.UNICODE]), [checks.UNICODE]),
  nulls: async () => assert.deepEqual(await value("SELECT ?::int AS a, ?::text AS b, '' AS c", [null, null]), [null, null, '']),
  async arrays() {
    const row = [[1, null, 3], ['a', 'b"c', '{,}', '', null]]
    assert.deepEqual(await value('SELECT :a::int[] AS a, :b::text[] AS b', { a: row[0], b: row[1] }), row)
  },
  async timezones() {
    const row = await value('SELECT ?::timestamptz::text', [checks.MADE], { options: '-c TimeZone=Asia/Kathmandu' })
    assert.deepEqual(row, ['2026-03-29 15:30:00.123+05:45'])
  },
}, { prepared: 'node_pg has it, Knex does not name its queries', notify: 'a matter of the driver below, see node_pg' })
