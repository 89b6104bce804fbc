// Prisma with its driver adapter for node-postgres: its engine is WebAssembly, the connections are the driver's.

import assert from 'node:assert/strict'
import { PrismaPg } from '@prisma/adapter-pg'
import generated from './generated/index.js'
import * as checks from './checks.js'

const TLS = { rejectUnauthorized: false }

/** A pool for the time of `work`. */
async function within(work, more = {}) {
  const prisma = new generated.PrismaClient({ adapter: new PrismaPg({ ...checks.ACCOUNT, max: 1, ...more }), log: [] })
  try {
    return await work(prisma)
  } finally {
    await prisma.$disconnect()
  }
}

const answers = (ssl) => () => within(async (prisma) => assert.deepEqual(await prisma.$queryRaw`SELECT 1 AS one`, [{ one: 1 }]), { ssl })

function written(row) {
  return within(async (prisma) => {
    await prisma.items.deleteMany()
    await prisma.items.create({ data: { id: 1, ...row } })
    const found = await prisma.items.findUnique({ where: { id: 1 }, select: Object.fromEntries(Object.keys(row).map((name) => [name, true])) })
    for (const [name, wanted] of Object.entries(row)) {
      const plain = name === 'price' && wanted ? found.price.toString() : name === 'data' && wanted ? Buffer.from(found.data) : found[name]
      assert.deepEqual(plain, wanted, name)
    }
  })
}

function parameters() {
  const { TEXT: name, PRICE: price, DATA: data, DOCUMENT: doc, MADE: made } = checks
  return written({ name, price, data, doc, made, mood: 'happy' })
}

function transaction() {
  return within(async (prisma) => {
    await prisma.$transaction([prisma.items.deleteMany(), prisma.items.create({ data: { id: 1 } })])
    await assert.rejects(prisma.$transaction(async (tx) => {
      await tx.items.deleteMany()
      throw new Error('undo')
    }), /undo/)
    assert.deepEqual(await prisma.items.findMany({ select: { id: true } }), [{ id: 1 }])
  })
}

/** Prisma has separate codes, and also keeps the server's. */
async function refused() {
  const first = (prisma) => prisma.items.count()
  await assert.rejects(within(first, { password: 'wrong' }), /Authentication failed|28P01/)
  await assert.rejects(within(first, { database: checks.UNKNOWN_DATABASE, ssl: TLS }), /does not exist|3D000/)
}

function prepared() {
  return within(async (prisma) => {
    for (let n = 0; n < 100; n++) assert.deepEqual(await prisma.$queryRaw`SELECT ${n}::int + 1 AS more`, [{ more: n + 1 }])
  })
}

function pipeline() {
  return within(async (prisma) => {
    await prisma.items.deleteMany()
    await prisma.items.createMany({ data: Array.from({ length: 5000 }, (_, id) => ({ id, name: `${id}` })) })
    assert.equal(await prisma.items.count({ where: { name: { startsWith: '1' } } }), 1111)
  })
}

function large() {
  return within(async (prisma) => {
    const rows = await prisma.$queryRawUnsafe(checks.LARGE)
    assert.equal(rows.reduce((sum, row) => sum + row.text.length, 0), checks.LARGE_BYTES)
  }, { ssl: TLS })
}

function concurrent() {
  return within(async (prisma) => {
    const answers = Array.from({ length: checks.CONNECTIONS }, () => prisma.$queryRaw`SELECT pg_backend_pid() AS pid, pg_sleep(1)::text`)
    assert.equal(new Set((await Promise.all(answers)).map(([row]) => row.pid)).size, checks.CONNECTIONS)
  }, { max: checks.CONNECTIONS })
}

const below = 'a matter of the driver below, see node_pg'
await checks.report(checks.versionOf('@prisma/client'), {
  tls: answers(TLS),
  plain: answers(false),
  parameters,
  transaction,
  refused,
  prepared,
  pipeline,
  large,
  concurrent,
  unicode: () => written({ name: checks.UNICODE }),
  nulls: () => written({ name: null, price: null, data: null, made: null, mood: null }),
  arrays: () => written({ tags: ['a', 'b"c', '{,}', ''], numbers: [1, 2, 3] }),
  timezones: () =>
    within(async (prisma) => {
      const rows = await prisma.$queryRaw`SELECT ${checks.MADE}::timestamptz AS made, current_setting('TimeZone') AS zone`
      assert.deepEqual(rows, [{ made: checks.MADE, zone: 'Asia/Kathmandu' }])
    }, { options: '-c TimeZone=Asia/Kathmandu' }),
}, { copy: below, cancel: below, notify: below })
