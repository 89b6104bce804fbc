// What the node clients share: where to connect, values to send, and the report the runner reads.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

export const CHECKS = [
  'tls', 'plain', 'parameters', 'transaction', 'copy', 'cancel', 'refused', 'prepared', 'pipeline',
  'notify', 'large', 'concurrent', 'unicode', 'nulls', 'arrays', 'timezones',
]

export const URL_OF_CLIENT = process.env.CLIENT_URL
const url = new URL(URL_OF_CLIENT)
export const ACCOUNT = {
  host: url.hostname,
  port: Number(url.port),
  user: url.username,
  password: url.password,
  database: url.pathname.slice(1),
}
// The client's own tenant of a blueprint that is none; another tenant's name would be 42501, whether it exists or not.
export const UNKNOWN_DATABASE = `nothing__${ACCOUNT.database.split('__').at(-1)}`

export const TEXT = `it's "quoted" \\ 100% $1 :x ?`
export const PRICE = '123456789.125'
export const DATA = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
export const DOCUMENT = { a: [1, null, { b: '€' }] }
export const MADE = new Date('2026-03-29T09:45:00.123Z')
export const UNICODE = 'Grüße 世界 🐘 e\u0301 \u202eabc'
export const ROWS = 50_000
export const LARGE = `SELECT n, repeat(md5(n::text), 32) AS text FROM generate_series(1, ${ROWS}) n`
export const LARGE_BYTES = ROWS * 1024
export const SLEEP = 'SELECT pg_sleep(120)'
// Only this client's sessions are in its database.
export const SLEEPERS = `SELECT count(*)::int AS n FROM pg_stat_activity
  WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)'`
export const CONNECTIONS = 20

export const versionOf = (name) => createRequire(import.meta.url)(`./node_modules/${name}/package.json`).version

/** Until `answer` resolves to true. */
export async function waitFor(answer) {
  const deadline = Date.now() + 30_000
  while (!(await answer())) {
    assert.ok(Date.now() < deadline, 'it took too long')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** That `work` is rejected with the SQLSTATE, wherever the client keeps it. */
export async function refuses(work, sqlstate) {
  await assert.rejects(work, (fault) => {
    const codes = [fault.code, fault.parent?.code, fault.cause?.code, fault.cause?.originalCode]
    assert.ok(codes.includes(sqlstate), `${codes} instead of ${sqlstate}: ${fault.message}`)
    return true
  })
}

/** Runs the function of each check's name; `skipped` says why a check has none. */
export async function report(version, checks, skipped = {}) {
  console.log(`version\t${version}`)
  for (const check of CHECKS) {
    console.log([check, ...(await outcome(checks[check], skipped[check]))].join('\t'))
  }
  // Pools that a failed check left open must not hold the process.
  process.exit(0)
}

async function outcome(check, skipped) {
  if (skipped) return ['skipped', skipped]
  try {
    await check()
    return ['ok']
  } catch (fault) {
    console.error(fault)
    return ['FAILED', `${fault?.name}: ${fault?.message}`.replace(/\s+/g, ' ')]
  }
}

/** Runs `migrate` or `use`, as the runner asks, and ends. */
export async function step(steps) {
  try {
    await steps[process.argv[2]]()
    process.exit(0)
  } catch (fault) {
    console.error(fault)
    process.exit(1)
  }
}
