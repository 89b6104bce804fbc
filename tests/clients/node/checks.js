// What the node clients share: where to connect, values to send, and the report the runner reads.
import assert from "node:assert/strict";

export const URL_ = new URL(process.env.CLIENT_URL);
export const CONNECTION = {
  host: URL_.hostname,
  port: Number(URL_.port),
  user: decodeURIComponent(URL_.username),
  password: decodeURIComponent(URL_.password),
  database: URL_.pathname.slice(1),
};
export const UNKNOWN_DATABASE = `nothing__${CONNECTION.database.split("__").pop()}`;
export const TEXT = 'it\'s "quoted" \\ 100% $1 :x ?';
export const PRICE = "123456789.125";
export const DATA = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
export const DOCUMENT = { a: [1, null, { b: "€" }] };
export const MADE = new Date("2026-03-29T09:45:00.123Z");
export const UNICODE = "Grüße 世界 🐘 é \u202eabc";
export const ROWS = 50_000;
export const LARGE = `SELECT n, repeat(md5(n::text), 32) AS text FROM generate_series(1, ${ROWS}) n`;
export const LARGE_BYTES = ROWS * 1024;
export const SLEEP = "SELECT pg_sleep(120)";
export const SLEEPERS =
  "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)'";
export const CONNECTIONS = 20;

export async function waitFor(answer) {
  const deadline = Date.now() + 30_000;
  while (!(await answer())) {
    assert(Date.now() < deadline, "it took too long");
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

/** Prints a line for each check; `skipped` says why a check has none. */
export async function report(version, checks, skipped = {}) {
  const order = [
    "tls", "plain", "parameters", "transaction", "copy", "cancel", "refused", "prepared", "pipeline",
    "notify", "large", "concurrent", "unicode", "nulls", "arrays", "timezones",
  ];
  console.log(`version\t${version}`);
  for (const check of order) {
    if (check in skipped) {
      console.log(`${check}\tskipped\t${skipped[check]}`);
      continue;
    }
    try {
      await checks[check]();
      console.log(`${check}\tok`);
    } catch (fault) {
      console.error(fault);
      console.log(`${check}\tFAILED\t${String(fault).replace(/\s+/g, " ")}`);
    }
  }
  process.exit(0);
}
