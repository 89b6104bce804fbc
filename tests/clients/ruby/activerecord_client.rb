# ActiveRecord over pg, and its migrations.

require "active_record"
require_relative "checks"

ActiveRecord.default_timezone = :utc if ActiveRecord.respond_to?(:default_timezone=)
ActiveRecord::Migration.verbose = false

class Item < ActiveRecord::Base; end

class MakeAuthors < ActiveRecord::Migration[6.1]
  def change
    enable_extension "citext"
    create_table :authors do |t|
      t.citext :email, null: false, index: { unique: true }
      t.jsonb :options, null: false, default: {}
      t.string :tags, array: true
      t.timestamps
    end
    create_table :books, id: :uuid do |t|
      t.references :author, null: false, foreign_key: { on_delete: :cascade }
      t.decimal :price, precision: 12, scale: 3
    end
  end
end

class ChangeBooks < ActiveRecord::Migration[6.1]
  disable_ddl_transaction!

  def change
    add_column :books, :title, :text, default: "", null: false
    add_check_constraint :books, "price > 0", name: "price_positive"
    add_index :books, :price, algorithm: :concurrently
    change_column_null :authors, :tags, false, "{}"
  end
end

class Author < ActiveRecord::Base
  has_many :books
end

class Book < ActiveRecord::Base
  belongs_to :author
end

class ActiveRecordClient
  include Checks

  # A pool for the time of the block.
  def within(**more)
    account = ACCOUNT.except(:user, :dbname).merge(username: ACCOUNT[:user], database: ACCOUNT[:dbname])
    ActiveRecord::Base.establish_connection(adapter: "postgresql", **account, **more)
    yield ActiveRecord::Base.connection
  ensure
    ActiveRecord::Base.connection_pool.disconnect!
  end

  def written(**row)
    within do
      Item.delete_all
      Item.create!(id: 1, **row)
      expect(Item.find(1).attributes.symbolize_keys.slice(*row.keys), row)
    end
  end

  def tls
    within(sslmode: "require") { |session| expect(session.raw_connection.ssl_in_use?, true) }
  end

  def plain
    within(sslmode: "disable") { |session| expect(session.raw_connection.ssl_in_use?, false) }
  end

  def parameters
    written(name: TEXT, price: BigDecimal("123456789.125"), data: DATA, doc: { "a" => [1, nil] }, made: MADE, mood: "happy")
  end

  def transaction
    within do
      Item.transaction do
        Item.delete_all
        Item.create!(id: 1)
        Item.transaction(requires_new: true) do
          Item.create!(id: 2)
          raise ActiveRecord::Rollback
        end
      end
      Item.transaction do
        Item.delete_all
        raise ActiveRecord::Rollback
      end
      expect(Item.pluck(:id), [1])
    end
  end

  def refused
    refuses(StandardError, "password authentication failed") { within(password: "wrong") { |session| session.select_value("SELECT 1") } }
    # ActiveRecord makes an error of its own of it.
    refuses(ActiveRecord::NoDatabaseError, "") { within(database: UNKNOWN_DATABASE) { |session| session.select_value("SELECT 1") } }
  end

  def prepared
    within do |session|
      Item.delete_all
      Item.create!(id: 1, name: "one")
      100.times { expect(Item.find_by(id: 1).name, "one") }
      count = session.select_value("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%FROM \"items\"%WHERE%'")
      expect(count, 1)
    end
  end

  def pipeline
    within do
      Item.delete_all
      Item.insert_all(Array.new(5000) { |n| { id: n, name: n.to_s } })
      Item.upsert_all([{ id: 1, name: "again" }])
      expect([Item.count, Item.find(1).name], [5000, "again"])
    end
  end

  def large
    within(sslmode: "require") do |session|
      expect(session.select_rows(LARGE).sum { |row| row[1].length }, LARGE_BYTES)
    end
  end

  def concurrent
    within(pool: CONNECTIONS) do
      pids, ready = Queue.new, Queue.new
      ActiveRecord::Base.connection_pool.disconnect!
      threads = Array.new(CONNECTIONS) do
        Thread.new do
          ActiveRecord::Base.connection_pool.with_connection do |session|
            pids << session.select_value("SELECT pg_backend_pid()")
            ready.pop
          end
        end
      end
      found = Array.new(CONNECTIONS) { pids.pop }
      CONNECTIONS.times { ready << true }
      threads.each(&:join)
      expect(found.uniq.size, CONNECTIONS)
    end
  end

  def unicode
    written(name: UNICODE)
  end

  def nulls
    written(name: nil, price: nil, data: nil, doc: nil, made: nil, tags: nil)
  end

  def arrays
    written(tags: ["a", 'b"c', "{,}", "", nil], numbers: [1, nil, 3])
  end

  def timezones
    within(variables: { timezone: "Asia/Kathmandu" }) do |session|
      ActiveRecord::Base.default_timezone = :local
      expect(session.select_value("SELECT '2026-03-29 09:45Z'::timestamptz::text"), "2026-03-29 15:30:00+05:45")
    ensure
      ActiveRecord::Base.default_timezone = :utc
    end
  end

  def migrate
    within do
      context = ActiveRecord::MigrationContext.new([], ActiveRecord::SchemaMigration)
      migrations = [MakeAuthors.new("make_authors", 1), ChangeBooks.new("change_books", 2)]
      ActiveRecord::Migrator.new(:up, migrations, ActiveRecord::SchemaMigration).migrate
      expect(context.get_all_versions, [1, 2])
    end
  end

  def use
    within do
      ann = Author.create!(email: "Ann@example.com", tags: %w[a b], options: { "a" => 1 })
      ann.books.create!(title: "T", price: "1.5")
      expect(Author.joins(:books).find_by(email: "ann@EXAMPLE.com").options, { "a" => 1 })
      refuses(ActiveRecord::StatementInvalid, "price_positive") { ann.books.create!(title: "T", price: -1) }
    end
  end
end

client = ActiveRecordClient.new
below = "a matter of the driver below, see ruby_pg"
if ARGV.empty?
  Checks.report(ActiveRecord.version, client, "copy" => below, "cancel" => below, "notify" => below)
else
  client.public_send(ARGV.first)
end
