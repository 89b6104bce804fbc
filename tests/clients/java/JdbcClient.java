import java.io.StringReader;
import java.io.StringWriter;
import java.net.URI;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/** pgjdbc. Prints a line for each check; the runner reads them. */
class JdbcClient {
    interface Check {
        void run() throws Exception;
    }

    static final URI URL = URI.create(System.getenv("CLIENT_URL"));
    static final String DATABASE = URL.getPath().substring(1);
    static final String TEXT = "it's \"quoted\" \\ 100% $1 :x ?";
    static final String UNICODE = "Grüße 世界 \uD83D\uDC18 é \u202eabc";
    static final OffsetDateTime MADE = OffsetDateTime.parse("2026-03-29T09:45:00.123456Z");
    static final int ROWS = 50_000;
    static final String LARGE = "SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, " + ROWS + ") n";

    static Connection connect(String... settings) throws SQLException {
        String[] user = URL.getUserInfo().split(":", 2);
        Properties properties = new Properties();
        properties.put("user", user[0]);
        properties.put("password", user[1]);
        properties.put("sslmode", "prefer");
        properties.put("sslfactory", "org.postgresql.ssl.NonValidatingFactory");
        String database = DATABASE;
        for (String setting : settings) {
            String[] parts = setting.split("=", 2);
            if (parts[0].equals("database")) database = parts[1];
            else properties.put(parts[0], parts[1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + URL.getHost() + ":" + URL.getPort() + "/" + database, properties);
    }

    static Object one(Connection session, String sql) throws SQLException {
        try (Statement statement = session.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static void run(Connection session, String sql) throws SQLException {
        try (Statement statement = session.createStatement()) {
            statement.execute(sql);
        }
    }

    static void expect(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) throw new AssertionError(found + " instead of " + wanted);
    }

    static SQLException refused(Check check) throws Exception {
        try {
            check.run();
        } catch (SQLException refusal) {
            return refusal;
        }
        throw new AssertionError("not refused");
    }

    static void tls() throws Exception {
        try (Connection session = connect("sslmode=require")) {
            expect(one(session, "SELECT 1"), 1);
        }
    }

    static void plain() throws Exception {
        try (Connection session = connect("sslmode=disable")) {
            expect(one(session, "SELECT 1"), 1);
        }
    }

    static void parameters() throws Exception {
        byte[] data = new byte[256];
        for (int n = 0; n < 256; n++) data[n] = (byte) n;
        try (Connection session = connect()) {
            run(session, "DELETE FROM items");
            String sql = "INSERT INTO items (id, name, price, data, made, doc, mood) VALUES (?, ?, ?, ?, ?, ?::jsonb, ?::mood)";
            try (PreparedStatement insert = session.prepareStatement(sql)) {
                insert.setInt(1, 1);
                insert.setString(2, TEXT);
                insert.setBigDecimal(3, new java.math.BigDecimal("123456789.125"));
                insert.setBytes(4, data);
                insert.setObject(5, MADE);
                insert.setString(6, "{\"a\": [1, null]}");
                insert.setString(7, "happy");
                insert.executeUpdate();
            }
            try (Statement statement = session.createStatement(); ResultSet row = statement.executeQuery("SELECT * FROM items")) {
                row.next();
                expect(row.getString("name"), TEXT);
                expect(row.getBigDecimal("price"), new java.math.BigDecimal("123456789.125"));
                expect(Arrays.equals(row.getBytes("data"), data), true);
                expect(row.getObject("made", OffsetDateTime.class).toInstant(), MADE.toInstant());
                expect(row.getString("doc"), "{\"a\": [1, null]}");
                expect(row.getString("mood"), "happy");
            }
        }
    }

    static void transaction() throws Exception {
        try (Connection session = connect()) {
            session.setAutoCommit(false);
            run(session, "DELETE FROM items");
            run(session, "INSERT INTO items (id) VALUES (1)");
            Savepoint savepoint = session.setSavepoint();
            run(session, "INSERT INTO items (id) VALUES (2)");
            session.rollback(savepoint);
            session.commit();
            run(session, "DELETE FROM items");
            session.rollback();
            expect(one(session, "SELECT string_agg(id::text, ',') FROM items"), "1");
        }
    }

    static void copy() throws Exception {
        try (Connection session = connect()) {
            run(session, "DELETE FROM items");
            CopyManager copy = session.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 50_000; n++) lines.append(n).append("\tname\n");
            expect(copy.copyIn("COPY items (id, name) FROM STDIN", new StringReader(lines.toString())), 50_000L);
            expect(copy.copyOut("COPY items (id, name) TO STDOUT", new StringWriter()), 50_000L);
        }
    }

    static void cancel() throws Exception {
        for (String mode : List.of("sslmode=disable", "sslmode=require")) {
            try (Connection session = connect(mode); Connection other = connect(); Statement sleep = session.createStatement()) {
                Thread stopper = new Thread(() -> {
                    String sleepers = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()"
                        + " AND state = 'active' AND query = 'SELECT pg_sleep(120)'";
                    try {
                        while (!Objects.equals(one(other, sleepers), 1)) Thread.sleep(20);
                        sleep.cancel();
                    } catch (Exception fault) {
                        fault.printStackTrace();
                    }
                });
                stopper.start();
                expect(refused(() -> sleep.execute("SELECT pg_sleep(120)")).getSQLState(), "57014");
                stopper.join();
                expect(one(session, "SELECT 1"), 1);
            }
        }
    }

    static void refusals() throws Exception {
        expect(refused(() -> connect("password=wrong")).getSQLState(), "28P01");
        String unknown = "nothing__" + DATABASE.substring(DATABASE.lastIndexOf("__") + 2);
        SQLException refusal = refused(() -> connect("database=" + unknown));
        expect(refusal.getMessage().contains(unknown), true);
    }

    static void prepared() throws Exception {
        try (Connection session = connect("prepareThreshold=3"); PreparedStatement increment = session.prepareStatement("SELECT ? + 1")) {
            for (int n = 0; n < 100; n++) {
                increment.setInt(1, n);
                try (ResultSet rows = increment.executeQuery()) {
                    rows.next();
                    expect(rows.getInt(1), n + 1);
                }
            }
        }
    }

    static void pipeline() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection session = connect("reWriteBatchedInserts=" + rewrite)) {
                run(session, "DELETE FROM items");
                try (PreparedStatement insert = session.prepareStatement("INSERT INTO items (id) VALUES (?)")) {
                    for (int n = 0; n < 2000; n++) {
                        insert.setInt(1, n);
                        insert.addBatch();
                    }
                    insert.executeBatch();
                }
                expect(one(session, "SELECT count(*) FROM items"), 2000L);
            }
        }
    }

    static void notifications() throws Exception {
        try (Connection listener = connect(); Connection speaker = connect()) {
            run(listener, "LISTEN channel");
            run(speaker, "NOTIFY channel, 'hello'");
            var heard = listener.unwrap(PGConnection.class).getNotifications(30_000);
            expect(heard == null ? null : heard[0].getParameter(), "hello");
        }
    }

    static void large() throws Exception {
        try (Connection session = connect("sslmode=require")) {
            session.setAutoCommit(false);
            for (int fetch : new int[] {0, 1000}) {
                long length = 0;
                try (Statement statement = session.createStatement()) {
                    statement.setFetchSize(fetch);
                    try (ResultSet rows = statement.executeQuery(LARGE)) {
                        while (rows.next()) length += rows.getString(2).length();
                    }
                }
                expect(length, ROWS * 1024L);
            }
        }
    }

    static void concurrent() throws Exception {
        List<Connection> sessions = new ArrayList<>();
        Set<Object> pids = new HashSet<>();
        for (int n = 0; n < 20; n++) sessions.add(connect());
        for (Connection session : sessions) pids.add(one(session, "SELECT pg_backend_pid()"));
        for (Connection session : sessions) session.close();
        expect(pids.size(), 20);
    }

    static void unicode() throws Exception {
        try (Connection session = connect(); PreparedStatement select = session.prepareStatement("SELECT ?")) {
            select.setString(1, UNICODE);
            try (ResultSet rows = select.executeQuery()) {
                rows.next();
                expect(rows.getString(1), UNICODE);
            }
        }
    }

    static void nulls() throws Exception {
        try (Connection session = connect(); PreparedStatement select = session.prepareStatement("SELECT ?::int, ?::text, ''")) {
            select.setNull(1, java.sql.Types.INTEGER);
            select.setNull(2, java.sql.Types.VARCHAR);
            try (ResultSet rows = select.executeQuery()) {
                rows.next();
                expect(Arrays.asList(rows.getObject(1), rows.getObject(2), rows.getObject(3)), Arrays.asList(null, null, ""));
            }
        }
    }

    static void arrays() throws Exception {
        String[] words = {"a", "b\"c", "{,}", "", null};
        try (Connection session = connect(); PreparedStatement select = session.prepareStatement("SELECT ?::text[]")) {
            Array array = session.createArrayOf("text", words);
            select.setArray(1, array);
            try (ResultSet rows = select.executeQuery()) {
                rows.next();
                expect(Arrays.equals((Object[]) rows.getArray(1).getArray(), words), true);
            }
        }
    }

    static void timezones() throws Exception {
        try (Connection session = connect("options=-c TimeZone=Asia/Kathmandu")) {
            // The driver sets the zone of the machine it runs on; what the session sets counts.
            run(session, "SET TimeZone = 'Asia/Kathmandu'");
            expect(one(session, "SELECT '2026-03-29 09:45:00.123456+00'::timestamptz::text"), "2026-03-29 15:30:00.123456+05:45");
        }
    }

    public static void main(String[] arguments) {
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("tls", JdbcClient::tls);
        checks.put("plain", JdbcClient::plain);
        checks.put("parameters", JdbcClient::parameters);
        checks.put("transaction", JdbcClient::transaction);
        checks.put("copy", JdbcClient::copy);
        checks.put("cancel", JdbcClient::cancel);
        checks.put("refused", JdbcClient::refusals);
        checks.put("prepared", JdbcClient::prepared);
        checks.put("pipeline", JdbcClient::pipeline);
        checks.put("notify", JdbcClient::notifications);
        checks.put("large", JdbcClient::large);
        checks.put("concurrent", JdbcClient::concurrent);
        checks.put("unicode", JdbcClient::unicode);
        checks.put("nulls", JdbcClient::nulls);
        checks.put("arrays", JdbcClient::arrays);
        checks.put("timezones", JdbcClient::timezones);
        System.out.println("version\t" + org.postgresql.util.DriverInfo.DRIVER_VERSION);
        checks.forEach((name, check) -> {
            try {
                check.run();
                System.out.println(name + "\tok");
            } catch (Throwable fault) {
                fault.printStackTrace();
                System.out.println(name + "\tFAILED\t" + fault.toString().replaceAll("\\s+", " "));
            }
        });
    }
}
