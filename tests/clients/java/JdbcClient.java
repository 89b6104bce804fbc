// PostgreSQL's JDBC driver.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.net.URI;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.TimeZone;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.util.PGobject;

public final class JdbcClient {
    interface Check {
        void run() throws Exception;
    }

    static final URI URL = URI.create(System.getenv("CLIENT_URL"));
    static final String DATABASE = URL.getPath().substring(1);
    // The client's own tenant of a blueprint that is none.
    static final String UNKNOWN_DATABASE = "nothing__" + DATABASE.substring(DATABASE.lastIndexOf("__") + 2);
    static final String TEXT = "it's \"quoted\" \\ 100% $1 :x";
    static final String UNICODE = "Gr\u00fc\u00dfe \u4e16\u754c \ud83d\udc18 e\u0301 \u202eabc";
    static final OffsetDateTime MADE = OffsetDateTime.of(2026, 3, 29, 9, 45, 0, 123_456_000, ZoneOffset.UTC);
    static final int ROWS = 50_000;
    static final long LARGE_BYTES = ROWS * 1024L;
    static final String LARGE = "SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, " + ROWS + ") n";
    static final int CONNECTIONS = 20;
    static final List<Map<String, String>> TLS_AND_PLAIN =
            List.of(Map.of("sslmode", "require"), Map.of("sslmode", "disable"));

    public static void main(String[] arguments) throws Exception {
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        System.out.println("version\t" + org.postgresql.Driver.class.getPackage().getImplementationVersion());
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("tls", () -> answers(Map.of("sslmode", "require")));
        checks.put("plain", () -> answers(Map.of("sslmode", "disable")));
        checks.put("parameters", JdbcClient::parameters);
        checks.put("transaction", JdbcClient::transaction);
        checks.put("copy", JdbcClient::copy);
        checks.put("cancel", JdbcClient::cancel);
        checks.put("refused", JdbcClient::refused);
        checks.put("prepared", JdbcClient::prepared);
        checks.put("pipeline", JdbcClient::pipeline);
        checks.put("notify", JdbcClient::listen);
        checks.put("large", JdbcClient::large);
        checks.put("concurrent", JdbcClient::concurrent);
        checks.put("unicode", () -> expect(value("SELECT ?", UNICODE), UNICODE));
        checks.put("nulls", JdbcClient::nulls);
        checks.put("arrays", JdbcClient::arrays);
        checks.put("timezones", JdbcClient::timezones);
        checks.forEach((name, check) -> System.out.println(name + "\t" + outcome(check)));
        System.exit(0);
    }

    static String outcome(Check check) {
        try {
            check.run();
            return "ok";
        } catch (Exception | AssertionError fault) {
            fault.printStackTrace();
            return "FAILED\t" + String.valueOf(fault).replaceAll("\\s+", " ");
        }
    }

    static Connection connect(Map<String, String> more) throws SQLException {
        String[] account = URL.getUserInfo().split(":");
        Properties properties = new Properties();
        properties.setProperty("user", account[0]);
        properties.setProperty("password", account[1]);
        properties.putAll(more);
        String database = properties.getProperty("database", DATABASE);
        return DriverManager.getConnection("jdbc:postgresql://" + URL.getHost() + ":" + URL.getPort() + "/" + database, properties);
    }

    static Connection connect() throws SQLException {
        return connect(Map.of());
    }

    static void expect(Object found, Object wanted) {
        if (!Objects.deepEquals(found, wanted)) throw new AssertionError(found + " instead of " + wanted);
    }

    static void refuses(String sqlstate, Check work) throws Exception {
        try {
            work.run();
        } catch (SQLException refusal) {
            expect(refusal.getSQLState(), sqlstate);
            return;
        }
        throw new AssertionError("not refused: " + sqlstate);
    }

    static Object value(Connection session, String query, Object... parameters) throws SQLException {
        try (PreparedStatement statement = session.prepareStatement(query)) {
            for (int n = 0; n < parameters.length; n++) statement.setObject(n + 1, parameters[n]);
            ResultSet rows = statement.executeQuery();
            rows.next();
            return rows.getObject(1);
        }
    }

    static Object value(String query, Object... parameters) throws SQLException {
        try (Connection session = connect()) {
            return value(session, query, parameters);
        }
    }

    static void run(Connection session, String script) throws SQLException {
        try (Statement statement = session.createStatement()) {
            statement.execute(script);
        }
    }

    static void answers(Map<String, String> settings) throws SQLException {
        try (Connection session = connect(settings)) {
            expect(value(session, "SELECT 1"), 1);
            expect(session.getMetaData().getColumns(null, "public", "items", "price").next(), true);
        }
    }

    static void parameters() throws SQLException {
        // Not "simple": this version of the driver writes a bytea as no literal, past the proxy too.
        for (String mode : List.of("extended", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection session = connect(Map.of("preferQueryMode", mode))) {
                run(session, "DELETE FROM items");
                PGobject document = new PGobject();
                document.setType("jsonb");
                document.setValue("{\"a\": [1, null]}");
                byte[] data = new byte[256];
                for (int n = 0; n < data.length; n++) data[n] = (byte) n;
                List<Object> row = List.of(1, TEXT, new BigDecimal("123456789.125"), data, document, MADE);
                PreparedStatement insert = session.prepareStatement("INSERT INTO items (id, name, price, data, doc, made) VALUES (?, ?, ?, ?, ?, ?)");
                for (int n = 0; n < row.size(); n++) insert.setObject(n + 1, row.get(n));
                expect(insert.executeUpdate(), 1);
                ResultSet found = session.createStatement().executeQuery("SELECT id, name, price, data, doc, made FROM items");
                found.next();
                for (int n = 0; n < 5; n++) expect(found.getObject(n + 1), row.get(n));
                expect(found.getObject(6, OffsetDateTime.class), MADE);
            }
        }
    }

    static void transaction() throws Exception {
        try (Connection session = connect()) {
            session.setAutoCommit(false);
            run(session, "DELETE FROM items; INSERT INTO items (id) VALUES (1)");
            session.commit();
            run(session, "DELETE FROM items");
            session.rollback(session.setSavepoint());
            session.rollback();
            expect(value(session, "SELECT count(*) FROM items"), 1L);
        }
        // The driver sets savepoints of its own around each statement.
        try (Connection session = connect(Map.of("autosave", "always"))) {
            session.setAutoCommit(false);
            refuses("22012", () -> run(session, "SELECT 1/0"));
            expect(value(session, "SELECT 1"), 1);
        }
    }

    static void copy() throws Exception {
        try (Connection session = connect(Map.of("sslmode", "require"))) {
            run(session, "DELETE FROM items");
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 50_000; n++) lines.append(n).append("\tname\n");
            var copying = session.unwrap(PGConnection.class).getCopyAPI();
            expect(copying.copyIn("COPY items (id, name) FROM STDIN", new StringReader(lines.toString())), 50_000L);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            copying.copyOut("COPY items (id, name) TO STDOUT", out);
            expect(out.toString(), lines.toString());
        }
    }

    static void cancel() throws Exception {
        for (Map<String, String> mode : TLS_AND_PLAIN) {
            try (Connection session = connect(mode); Connection other = connect(mode)) {
                Statement statement = session.createStatement();
                Thread stopper = new Thread(() -> {
                    try {
                        Instant deadline = Instant.now().plus(Duration.ofSeconds(30));
                        String sleepers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(120)'";
                        while (!value(other, sleepers).equals(1L) && Instant.now().isBefore(deadline)) Thread.sleep(20);
                        statement.cancel();
                    } catch (Exception fault) {
                        fault.printStackTrace();
                    }
                });
                stopper.start();
                refuses("57014", () -> statement.execute("SELECT pg_sleep(120)"));
                stopper.join();
                statement.setQueryTimeout(1);
                refuses("57014", () -> statement.execute("SELECT pg_sleep(120)"));
                expect(value(session, "SELECT 1"), 1);
            }
        }
    }

    static void refused() throws Exception {
        for (Map<String, String> mode : TLS_AND_PLAIN) {
            Map<String, String> wrong = new LinkedHashMap<>(mode);
            wrong.put("password", "wrong");
            refuses("28P01", () -> connect(wrong));
            Map<String, String> unknown = new LinkedHashMap<>(mode);
            unknown.put("database", UNKNOWN_DATABASE);
            refuses("3D000", () -> connect(unknown));
        }
    }

    static void prepared() throws SQLException {
        // From the fifth time on it is a statement of the server.
        try (Connection session = connect(); PreparedStatement statement = session.prepareStatement("SELECT ?::int + 1")) {
            for (int n = 0; n < 200; n++) {
                statement.setInt(1, n);
                ResultSet rows = statement.executeQuery();
                rows.next();
                expect(rows.getInt(1), n + 1);
            }
            expect(value(session, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%+ 1'"), 1L);
        }
    }

    static void pipeline() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection session = connect(Map.of("reWriteBatchedInserts", rewrite))) {
                run(session, "DELETE FROM items");
                session.setAutoCommit(false);
                PreparedStatement insert = session.prepareStatement("INSERT INTO items (id, name) VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS);
                for (int n = 0; n < 5000; n++) {
                    insert.setInt(1, n);
                    insert.setString(2, "name " + n);
                    insert.addBatch();
                }
                expect(insert.executeBatch().length, 5000);
                session.commit();
                insert.setInt(1, 1);
                insert.setString(2, "again");
                insert.addBatch();
                refuses("23505", insert::executeBatch);
                session.rollback();
                expect(value(session, "SELECT count(*) FROM items"), 5000L);
            }
        }
    }

    static void listen() throws SQLException {
        try (Connection listener = connect(); Connection speaker = connect()) {
            run(listener, "LISTEN channel");
            run(speaker, "NOTIFY channel, 'hello'");
            PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(30_000);
            expect(heard[0].getName() + " " + heard[0].getParameter(), "channel hello");
        }
    }

    static void large() throws SQLException {
        for (int fetch : List.of(0, 1000)) {
            try (Connection session = connect(Map.of("sslmode", "require"))) {
                // A portal by parts needs a transaction.
                session.setAutoCommit(false);
                Statement statement = session.createStatement();
                statement.setFetchSize(fetch);
                long size = 0;
                ResultSet rows = statement.executeQuery(LARGE);
                while (rows.next()) size += rows.getString(2).length();
                expect(size, LARGE_BYTES);
            }
        }
    }

    static void concurrent() throws Exception {
        var threads = Executors.newFixedThreadPool(CONNECTIONS);
        List<Connection> sessions = new ArrayList<>();
        List<Callable<Connection>> opening = Collections.nCopies(CONNECTIONS, JdbcClient::connect);
        for (Future<Connection> opened : threads.invokeAll(opening)) sessions.add(opened.get());
        Set<Object> pids = new HashSet<>();
        for (Connection session : sessions) pids.add(value(session, "SELECT pg_backend_pid()"));
        expect(pids.size(), CONNECTIONS);
        for (Connection session : sessions) session.close();
        threads.shutdown();
    }

    static void nulls() throws SQLException {
        try (Connection session = connect()) {
            PreparedStatement statement = session.prepareStatement("SELECT ?::int, ?, ''");
            statement.setNull(1, Types.INTEGER);
            statement.setNull(2, Types.VARCHAR);
            ResultSet rows = statement.executeQuery();
            rows.next();
            expect(Arrays.asList(rows.getObject(1), rows.getObject(2), rows.getObject(3)), Arrays.asList(null, null, ""));
        }
    }

    static void arrays() throws SQLException {
        try (Connection session = connect()) {
            Object[] texts = {"a", "b\"c", "{,}", "", null};
            Integer[] numbers = {1, null, 3};
            expect(((Array) value(session, "SELECT ?", session.createArrayOf("text", texts))).getArray(), texts);
            expect(((Array) value(session, "SELECT ?", session.createArrayOf("int4", numbers))).getArray(), numbers);
        }
    }

    static void timezones() throws SQLException {
        // The driver sends the time zone of the JVM with the startup packet.
        TimeZone.setDefault(TimeZone.getTimeZone("Asia/Kathmandu"));
        try {
            expect(value("SELECT current_setting('TimeZone')"), "Asia/Kathmandu");
            expect(value("SELECT ?::timestamptz::text", MADE), "2026-03-29 15:30:00.123456+05:45");
        } finally {
            TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        }
    }
}
