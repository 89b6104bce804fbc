// Knex: its migrations shape a workspace, its query builder works with the tenant. Its wire is node-postgres's.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import Knex from "knex";
import * as c from "./checks.js";

const { version } = createRequire(import.meta.url)("knex/package.json");
const open = () => Knex({ client: "pg", connection: c.CONNECTION, pool: { min: 0, max: 2 } });

const MIGRATIONS = {
  async getMigrations() {
    return ["1_authors", "2_books"];
  },
  getMigrationName: (name) => name,
  getMigration: (name) => ({
    "1_authors": {
      up: (db) =>
        db.schema.createTable("authors", (table) => {
          table.increments("id");
          table.string("name").notNullable().unique();
          table.timestamps(true, true);
        }),
      down: (db) => db.schema.dropTable("authors"),
    },
    "2_books": {
      up: (db) =>
        db.schema
          .createTable("books", (table) => {
            table.bigIncrements("id");
            table.integer("author_id").notNullable().references("authors.id").onDelete("CASCADE");
            table.enu("state", ["draft", "out"], { useNative: true, enumName: "book_state" }).defaultTo("draft");
            table.jsonb("labels").defaultTo("[]");
            table.index(["author_id", "state"]);
          })
          .alterTable("authors", (table) => table.text("note")),
      down: (db) => db.schema.dropTable("books"),
    },
  })[name],
};

async function run(work) {
  const db = open();
  try {
    await work(db);
  } finally {
    await db.destroy();
  }
}

const wire = "its wire is node-postgres's, see there";
const skipped = Object.fromEntries(
  ["tls", "plain", "copy", "cancel", "refused", "prepared", "pipeline", "notify", "large", "concurrent", "unicode", "nulls", "arrays", "timezones"]
    .map((check) => [check, wire]),
);

switch (process.argv[2]) {
  case "migrate":
    await run((db) => db.migrate.latest({ migrationSource: MIGRATIONS }));
    break;
  case "use":
    await run(async (db) => {
      const [{ id }] = await db("authors").insert({ name: "Ada" }).returning("id");
      await db("books").insert({ author_id: id, labels: JSON.stringify(["new"]) });
      assert.deepEqual(await db("books").join("authors", "authors.id", "author_id").select("name", "state", "labels"), [
        { name: "Ada", state: "draft", labels: ["new"] },
      ]);
    });
    break;
  default:
    await c.report(
      version,
      {
        parameters: () =>
          run(async (db) => {
            await db("items").del();
            await db("items").insert({ id: 1, name: c.TEXT, price: c.PRICE, data: c.DATA, made: c.MADE });
            assert.deepEqual(await db("items").select("name", "price", "made"), [{ name: c.TEXT, price: c.PRICE, made: c.MADE }]);
          }),
        transaction: () =>
          run(async (db) => {
            await db.transaction((tx) => tx("items").del());
            await assert.rejects(
              db.transaction(async (tx) => {
                await tx("items").insert({ id: 2 });
                throw new Error("undo");
              }),
              /undo/,
            );
            assert.deepEqual(await db("items").select("id"), []);
          }),
      },
      skipped,
    );
}
process.exit(0);
