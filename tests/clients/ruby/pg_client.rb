# Ruby's pg, over libpq.

require "pg"
require_relative "checks"

class PgClient
  include Checks

  def within(**more)
    session = PG.connect(**ACCOUNT, **more)
    session.type_map_for_results = PG::BasicTypeMapForResults.new(session)
    yield session
  ensure
    session&.close
  end

  def value(query, parameters = [], **more)
    within(**more) { |session| session.exec_params(query, parameters).values.first }
  end

  def tls
    within(sslmode: "require") { |session| expect(session.ssl_in_use?, true) }
  end

  def plain
    within(sslmode: "disable") { |session| expect(session.ssl_in_use?, false) }
  end

  def parameters
    within do |session|
      session.exec("DELETE FROM items")
      data = { value: DATA, format: 1 }
      row = [1, TEXT, "123456789.125", data, '{"a": [1, null]}', "2026-03-29 09:45:00.123456Z"]
      session.exec_params("INSERT INTO items (id, name, price, data, doc, made) VALUES ($1, $2, $3, $4, $5, $6)", row)
      found = session.exec("SELECT id, name, price, data, doc->'a'->>0, made FROM items").values.first
      expect(found, [1, TEXT, BigDecimal("123456789.125"), DATA, "1", MADE])
    end
  end

  def transaction
    within do |session|
      session.transaction { session.exec("DELETE FROM items; INSERT INTO items (id) VALUES (1)") }
      refuses(RuntimeError, "undo") do
        session.transaction do
          session.exec("DELETE FROM items")
          raise "undo"
        end
      end
      expect(session.exec("SELECT id FROM items").values, [[1]])
    end
  end

  def copy
    within(sslmode: "require") do |session|
      session.exec("DELETE FROM items")
      session.copy_data("COPY items (id, name) FROM STDIN") { 50_000.times { |n| session.put_copy_data("#{n}\tname\n") } }
      lines = 0
      session.copy_data("COPY items TO STDOUT") { lines += 1 while session.get_copy_data }
      expect(lines, 50_000)
    end
  end

  def cancel
    %w[disable require].each do |mode|
      within(sslmode: mode) do |session|
        session.send_query(SLEEP)
        within { |other| wait_for { other.exec(SLEEPERS).getvalue(0, 0) == 1 } }
        expect(session.cancel, nil)
        refuses(PG::QueryCanceled, "user request") { session.get_last_result }
        expect(session.exec("SELECT 1").values, [[1]])
      end
    end
  end

  def refused
    %w[disable require].each do |sslmode|
      refuses(PG::ConnectionBad, "password authentication failed") { PG.connect(**ACCOUNT, password: "wrong", sslmode: sslmode) }
      refuses(PG::ConnectionBad, UNKNOWN_DATABASE) { PG.connect(**ACCOUNT, dbname: UNKNOWN_DATABASE, sslmode: sslmode) }
    end
  end

  def prepared
    within do |session|
      session.prepare("increment", "SELECT $1::int + 1")
      100.times { |n| expect(session.exec_prepared("increment", [n]).getvalue(0, 0), n + 1) }
      expect(session.describe_prepared("increment").nparams, 1)
    end
  end

  def pipeline
    within do |session|
      session.enter_pipeline_mode
      numbers = (0...500).to_a
      numbers.each { |n| session.send_query_params("SELECT $1::int", [n]) }
      session.pipeline_sync
      found = numbers.map { session.get_result.getvalue(0, 0).to_i.tap { session.get_result } }
      expect(found, numbers)
      expect(session.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
      session.exit_pipeline_mode
    end
  end

  def notify
    within do |listener|
      listener.exec("LISTEN channel")
      within { |speaker| speaker.exec("NOTIFY channel, 'hello'") }
      heard = nil
      listener.wait_for_notify(30) { |channel, _, payload| heard = [channel, payload] }
      expect(heard, %w[channel hello])
    end
  end

  def large
    within(sslmode: "require") do |session|
      expect(session.exec(LARGE).column_values(1).sum(&:length), LARGE_BYTES)
      session.send_query(LARGE)
      session.set_single_row_mode
      size = 0
      session.get_result.stream_each_row { |row| size += row[1].length }
      expect(size, LARGE_BYTES)
    end
  end

  def concurrent
    sessions = Array.new(CONNECTIONS) { PG.connect(**ACCOUNT) }
    expect(sessions.map { |session| session.exec("SELECT pg_backend_pid()").getvalue(0, 0) }.uniq.size, CONNECTIONS)
    sessions.each(&:close)
  end

  def unicode
    expect(value("SELECT $1::text", [UNICODE]), [UNICODE])
  end

  def nulls
    expect(value("SELECT $1::int, $2::text, ''", [nil, nil]), [nil, nil, ""])
  end

  def arrays
    numbers, texts = [1, nil, 3], ["a", 'b"c', "{,}", "", nil]
    sent = [PG::TextEncoder::Array.new.encode(numbers), PG::TextEncoder::Array.new.encode(texts)]
    expect(value("SELECT $1::int[], $2::text[]", sent), [numbers, texts])
  end

  def timezones
    moment, text = value("SELECT $1::timestamptz, $1::text::timestamptz::text", ["2026-03-29 09:45:00.123456Z"],
                         options: "-c TimeZone=Asia/Kathmandu")
    expect([moment, text], [MADE, "2026-03-29 15:30:00.123456+05:45"])
  end
end

Checks.report(PG::VERSION, PgClient.new)
