# What the Ruby clients share: where to connect, values to send, and the report the runner reads.

require "uri"

module Checks
  ALL = %w[tls plain parameters transaction copy cancel refused prepared pipeline
           notify large concurrent unicode nulls arrays timezones].freeze

  ADDRESS = URI(ENV.fetch("CLIENT_URL"))
  ACCOUNT = { host: ADDRESS.host, port: ADDRESS.port, user: ADDRESS.user, password: ADDRESS.password,
              dbname: ADDRESS.path.delete_prefix("/") }.freeze
  # The client's own tenant of a blueprint that is none.
  UNKNOWN_DATABASE = "nothing__#{ACCOUNT[:dbname].rpartition('__').last}".freeze

  TEXT = %q(it's "quoted" \ 100% $1 :x ?).freeze
  DATA = (0..255).to_a.pack("C*").freeze
  MADE = Time.utc(2026, 3, 29, 9, 45, Rational("0.123456"))
  UNICODE = "Gr\u00fc\u00dfe \u4e16\u754c \u{1f418} e\u0301 \u202eabc".freeze
  ROWS = 50_000
  LARGE = "SELECT n, repeat(md5(n::text), 32) AS text FROM generate_series(1, #{ROWS}) n".freeze
  LARGE_BYTES = ROWS * 1024
  SLEEP = "SELECT pg_sleep(120)".freeze
  # Only this client's sessions are in its database.
  SLEEPERS = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' " \
             "AND query = 'SELECT pg_sleep(120)'".freeze
  CONNECTIONS = 20

  module_function

  def expect(found, wanted)
    raise "#{found.inspect} instead of #{wanted.inspect}" unless found == wanted
  end

  # That the block raises `kind`, whose message has `said`.
  def refuses(kind, said)
    yield
  rescue kind => refusal
    raise "#{refusal.message} does not say #{said}" unless refusal.message.include?(said)
  else
    raise "not refused: #{said}"
  end

  def wait_for
    deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 30
    until yield
      raise "it took too long" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

      sleep 0.02
    end
  end

  # Runs the method of each check's name; `skipped` says why a check has none.
  def report(version, client, skipped = {})
    $stdout.sync = true
    puts "version\t#{version}"
    ALL.each { |check| puts [check, *outcome(check, client, skipped)].join("\t") }
  end

  def outcome(check, client, skipped)
    return ["skipped", skipped[check]] if skipped[check]

    client.public_send(check)
    ["ok"]
  rescue StandardError => e
    warn e.full_message(highlight: false)
    ["FAILED", "#{e.class}: #{e.message}".gsub(/\s+/, " ")]
  end
end
