// Sequelize over node-postgres; its query interface makes the schema, as sequelize-cli's migrations do.

import assert from 'node:assert/strict'
import { DataTypes, QueryTypes, Sequelize } from 'sequelize'
import * as checks from './checks.js'

const TLS = { ssl: { rejectUnauthorized: false } }

/** A pool for the time of `work`. */
async function within(work, { dialectOptions = {}, max = 1, ...more } = {}) {
  const { database, user: username, ...account } = { ...checks.ACCOUNT, ...more }
  const sequelize = new Sequelize({ dialect: 'postgres', logging: false, database, username, ...account, dialectOptions, pool: { max } })
  try {
    return await work(sequelize)
  } finally {
    await sequelize.close()
  }
}

const itemsOf = (sequelize) =>
  sequelize.define('items', {
    id: { type: DataTypes.INTEGER, primaryKey: true },
    name: DataTypes.TEXT,
    price: DataTypes.DECIMAL(12, 3),
    data: DataTypes.BLOB,
    doc: DataTypes.JSONB,
    made: DataTypes.DATE,
    mood: DataTypes.STRING,
    tags: DataTypes.ARRAY(DataTypes.TEXT),
    numbers: DataTypes.ARRAY(DataTypes.INTEGER),
  }, { timestamps: false })

const answers = (dialectOptions) => () => within((sequelize) => sequelize.authenticate(), { dialectOptions })

async function written(row) {
  return within(async (sequelize) => {
    const items = itemsOf(sequelize)
    await items.destroy({ where: {} })
    await items.create({ id: 1, ...row })
    const found = await items.findByPk(1, { attributes: Object.keys(row) })
    assert.deepEqual(found.get({ plain: true }), row)
  })
}

function parameters() {
  const { TEXT: name, PRICE: price, DATA: data, DOCUMENT: doc, MADE: made } = checks
  return written({ name, price, data, doc, made, mood: 'happy' })
}

function transaction() {
  return within(async (sequelize) => {
    const items = itemsOf(sequelize)
    await sequelize.transaction(async (transaction) => {
      await items.destroy({ where: {}, transaction })
      await items.create({ id: 1 }, { transaction })
    })
    await assert.rejects(sequelize.transaction(async (transaction) => {
      await items.destroy({ where: {}, transaction })
      throw new Error('undo')
    }), /undo/)
    assert.deepEqual((await items.findAll()).map((item) => item.id), [1])
  })
}

function prepared() {
  return within(async (sequelize) => {
    for (let n = 0; n < 100; n++) {
      const [row] = await sequelize.query('SELECT $1::int + 1 AS more', { bind: [n], type: QueryTypes.SELECT })
      assert.equal(row.more, n + 1)
    }
  })
}

function pipeline() {
  return within(async (sequelize) => {
    const items = itemsOf(sequelize)
    await items.destroy({ where: {} })
    await items.bulkCreate(Array.from({ length: 5000 }, (_, id) => ({ id, name: `${id}` })))
    assert.equal(await items.count(), 5000)
  })
}

function large() {
  return within(async (sequelize) => {
    const rows = await sequelize.query(checks.LARGE, { type: QueryTypes.SELECT })
    assert.equal(rows.reduce((sum, row) => sum + row.text.length, 0), checks.LARGE_BYTES)
  }, { dialectOptions: TLS })
}

function concurrent() {
  return within(async (sequelize) => {
    const answers = Array.from({ length: checks.CONNECTIONS }, () => sequelize.query('SELECT pg_backend_pid() AS pid, pg_sleep(1)', { type: QueryTypes.SELECT }))
    assert.equal(new Set((await Promise.all(answers)).map(([row]) => row.pid)).size, checks.CONNECTIONS)
  }, { max: checks.CONNECTIONS })
}

const STEPS = {
  migrate: () =>
    within(async (sequelize) => {
      const schema = sequelize.getQueryInterface()
      const id = { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }
      const times = { createdAt: { type: DataTypes.DATE, allowNull: false }, updatedAt: { type: DataTypes.DATE, allowNull: false } }
      await schema.createTable('Authors', {
        id,
        email: { type: DataTypes.STRING, allowNull: false, unique: true },
        plan: { type: DataTypes.ENUM('free', 'pro'), defaultValue: 'free' },
        ...times,
      })
      await schema.createTable('Books', {
        id,
        AuthorId: { type: DataTypes.INTEGER, references: { model: 'Authors', key: 'id' }, onDelete: 'CASCADE' },
        tags: DataTypes.ARRAY(DataTypes.TEXT),
        ...times,
      })
      await sequelize.transaction(async (transaction) => {
        await schema.addColumn('Books', 'price', { type: DataTypes.DECIMAL(12, 3) }, { transaction })
        await schema.addIndex('Books', ['AuthorId'], { transaction })
      })
      await schema.addConstraint('Books', { type: 'check', fields: ['price'], where: { price: { [Sequelize.Op.gt]: 0 } } })
    }),
  use: () =>
    within(async (sequelize) => {
      const Author = sequelize.define('Author', { email: DataTypes.STRING, plan: DataTypes.ENUM('free', 'pro') })
      const Book = sequelize.define('Book', { tags: DataTypes.ARRAY(DataTypes.TEXT), price: DataTypes.DECIMAL(12, 3) })
      Author.hasMany(Book)
      await Author.create({ email: 'ann@example.com', Books: [{ tags: ['a'], price: '1.500' }] }, { include: Book })
      const [ann] = await Author.findAll({ include: Book })
      assert.deepEqual([ann.plan, ann.Books[0].tags, ann.Books[0].price], ['free', ['a'], '1.500'])
      await checks.refuses(Book.create({ price: -1 }), '23514')
      // Its own look at the catalog agrees that there is nothing left to make.
      await sequelize.sync({ alter: false })
    }),
}

if (process.argv[2]) await checks.step(STEPS)
const below = 'a matter of the driver below, see node_pg'
await checks.report(checks.versionOf('sequelize'), {
  tls: answers(TLS),
  plain: answers({ ssl: false }),
  parameters,
  transaction,
  async refused() {
    await checks.refuses(within((sequelize) => sequelize.authenticate(), { password: 'wrong' }), '28P01')
    await checks.refuses(within((sequelize) => sequelize.authenticate(), { database: checks.UNKNOWN_DATABASE, dialectOptions: TLS }), '3D000')
  },
  prepared,
  pipeline,
  large,
  concurrent,
  unicode: () => written({ name: checks.UNICODE }),
  nulls: () => written({ name: null, price: null, data: null, made: null, tags: null, mood: null }),
  arrays: () => written({ tags: ['a', 'b"c', '{,}', '', null], numbers: [1, 2, 3] }),
  timezones: () =>
    within(async (sequelize) => {
      // It sets the time zone of each session itself.
      const [row] = await sequelize.query('SELECT $1::timestamptz::text AS text', { bind: [checks.MADE], type: QueryTypes.SELECT })
      assert.equal(row.text, '2026-03-29 15:30:00.123+05:45')
    }, { timezone: 'Asia/Kathmandu' }),
}, { copy: below, cancel: below, notify: below })
