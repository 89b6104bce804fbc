//! Prepared statements, pipelines and incomplete messages of clients that share one server connection.

use std::thread;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tdb_tests::Wire;

use crate::{TURN, WAITS, parse, pooled, run_prepared, told};

#[test]
fn prepared_statements_of_clients_do_not_mix() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut two, mut three] = [(); 3].map(|()| Wire::login(&pooled.url).expect("log in"));
    let prepare = |client: &mut Wire, name: &str, sql: &str| {
        client.send(|out| {
            parse(out, name, sql);
            frontend::sync(out);
        });
        told(&client.read_until_ready())
    };
    let run = |client: &mut Wire, name: &str| {
        client.send(|out| {
            run_prepared(out, name);
            frontend::sync(out);
        });
        told(&client.read_until_ready())
    };
    assert_eq!(prepare(&mut one, "s", "SELECT 'one'"), ["1", "I"]);
    assert_eq!(prepare(&mut two, "s", "SELECT 'two'"), ["1", "I"]);
    assert_eq!(prepare(&mut one, "", "SELECT 'unnamed one'"), ["1", "I"]);
    assert_eq!(prepare(&mut two, "", "SELECT 'unnamed two'"), ["1", "I"]);
    let missing = ["26000 prepared statement \"s\" does not exist", "I"];
    for _ in 0..3 {
        assert_eq!(run(&mut one, "s"), ["2", "one", "C", "I"]);
        assert_eq!(run(&mut two, "s"), ["2", "two", "C", "I"]);
        assert_eq!(run(&mut three, "s"), missing);
        assert_eq!(run(&mut one, ""), ["2", "unnamed one", "C", "I"]);
        assert_eq!(run(&mut two, ""), ["2", "unnamed two", "C", "I"]);
        assert_eq!(
            run(&mut three, ""),
            ["26000 unnamed prepared statement does not exist", "I"]
        );
    }
    let exists = ["42P05 prepared statement \"s\" already exists", "I"];
    assert_eq!(prepare(&mut one, "s", "SELECT 'other'"), exists);
    assert_eq!(prepare(&mut two, "s", "SELECT 'other'"), exists);
    assert_eq!(run(&mut one, "s"), ["2", "one", "C", "I"]);
    // A failed Parse in a pipeline: the messages after it are discarded, and those after the Sync see the old state.
    one.send(|out| {
        parse(out, "u", "SELEC");
        parse(out, "v", "SELECT 'v'");
        frontend::sync(out);
        run_prepared(out, "v");
        frontend::sync(out);
        run_prepared(out, "s");
        frontend::sync(out);
    });
    assert_eq!(told(&one.read_until_ready())[1], "I");
    assert_eq!(
        told(&one.read_until_ready()),
        ["26000 prepared statement \"v\" does not exist", "I"]
    );
    assert_eq!(told(&one.read_until_ready()), ["2", "one", "C", "I"]);
    two.send(|out| {
        frontend::close(b'S', "s", out).expect("close");
        frontend::sync(out);
    });
    assert_eq!(told(&two.read_until_ready()), ["3", "I"]);
    assert_eq!(run(&mut two, "s"), missing);
    assert_eq!(run(&mut one, "s"), ["2", "one", "C", "I"]);
    assert_eq!(prepare(&mut two, "s", "SELECT 'again'"), ["1", "I"]);
    assert_eq!(run(&mut two, "s"), ["2", "again", "C", "I"]);
    // The SQL commands see the names of the client's statements, and no others.
    assert_eq!(told(&one.query("EXECUTE s")), ["T", "one", "C", "I"]);
    assert_eq!(told(&one.query("DEALLOCATE ALL")), ["C", "I"]);
    assert_eq!(run(&mut one, "s"), missing);
}

/// What a text means depends on the settings at its Parse, so statements are never shared.
#[test]
fn prepared_statements_with_the_same_text_depend_on_their_clients_settings() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut two] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    let settings = [
        "SET timezone = 'UTC'; SET datestyle = 'ISO, DMY'",
        "SET timezone = 'Asia/Tokyo'; SET datestyle = 'ISO, MDY'",
    ];
    let text = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00')::text || date '02/03/2020'";
    let expected = ["1577836800.0000002020-03-02", "1577804400.0000002020-02-03"];
    for (client, settings) in [&mut one, &mut two].into_iter().zip(settings) {
        client.query(settings);
        client.send(|out| {
            parse(out, "s", text);
            frontend::sync(out);
        });
        assert_eq!(told(&client.read_until_ready()), ["1", "I"]);
    }
    for _ in 0..3 {
        for (client, expected) in [&mut one, &mut two].into_iter().zip(expected) {
            client.send(|out| {
                run_prepared(out, "s");
                frontend::sync(out);
            });
            assert_eq!(told(&client.read_until_ready()), ["2", expected, "C", "I"]);
        }
    }
}

/// After DDL, a client must not decode values by an old description.
#[test]
fn a_statement_whose_columns_have_changed_is_not_executed_on_another_connection() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut other] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    other.query("CREATE TABLE changing (a int, b text); INSERT INTO changing VALUES (5, 'b')");
    one.send(|out| {
        parse(out, "c", "SELECT a FROM changing");
        frontend::describe(b'S', "c", out).expect("describe");
        frontend::sync(out);
    });
    assert_eq!(told(&one.read_until_ready()), ["1", "t", "T", "I"]);
    let run = |client: &mut Wire| {
        client.send(|out| {
            run_prepared(out, "c");
            frontend::sync(out);
        });
    };
    assert_eq!(told(&other.query("ALTER TABLE changing DROP b"))[0], "C");
    run(&mut one);
    assert_eq!(told(&one.read_until_ready()), ["2", "5", "C", "I"]);
    assert_eq!(told(&other.query("ALTER TABLE changing ALTER a TYPE float4"))[0], "C");
    run(&mut one);
    assert_eq!(told(&[one.read()]), ["0A000 cached plan must not change result type"]);
    other.query("DROP TABLE changing");
}

/// As drivers do it that empty their cache of statements.
#[test]
fn deallocate_removes_a_clients_statements_and_keeps_no_connection() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut other] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    let bind = |client: &mut Wire| {
        client.send(|out| {
            run_prepared(out, "d");
            frontend::sync(out);
        });
        told(&client.read_until_ready())
    };
    for deallocate in ["DEALLOCATE d", "deallocate prepare \"d\";", "DEALLOCATE ALL"] {
        one.send(|out| {
            parse(out, "d", "SELECT 'prepared'");
            frontend::sync(out);
        });
        assert_eq!(told(&one.read_until_ready()), ["1", "I"]);
        assert_eq!(told(&other.query("SELECT 'other'")), ["T", "other", "C", "I"]);
        let missing = told(&one.query("DEALLOCATE other"));
        assert_eq!(missing, ["26000 prepared statement \"other\" does not exist", "I"]);
        assert_eq!(bind(&mut one), ["2", "prepared", "C", "I"]);
        assert_eq!(told(&one.query(deallocate)), ["C", "I"], "{deallocate}");
        assert_eq!(
            told(&other.query("SELECT 'other'")),
            ["T", "other", "C", "I"],
            "{deallocate}"
        );
        let missing = ["26000 prepared statement \"d\" does not exist", "I"];
        assert_eq!(bind(&mut one), missing, "{deallocate}");
    }
}

#[test]
fn a_pipeline_keeps_its_connection_until_its_sync() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut other] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    one.send(|out| {
        parse(out, "", "SELECT generate_series(1, 3)");
        let no_values: [i32; 0] = [];
        let bound = frontend::bind("", "", [], no_values, |_, _| Ok(IsNull::Yes), [], out);
        assert!(bound.is_ok(), "bind");
        frontend::execute("", 2, out).expect("execute");
        frontend::flush(out);
    });
    let begun = [(); 5].map(|()| one.read());
    assert_eq!(told(&begun), ["1", "2", "1", "2", "s"]);
    other.send(|out| frontend::query("SELECT 'other'", out).expect("query"));
    thread::sleep(WAITS);
    one.send(|out| {
        frontend::execute("", 0, out).expect("execute");
        frontend::sync(out);
    });
    assert_eq!(told(&one.read_until_ready()), ["3", "C", "I"]);
    assert_eq!(told(&other.read_until_ready()), ["T", "other", "C", "I"]);
}

/// As asyncpg does it: Flush instead of Sync, and then a Query.
#[test]
fn a_query_ends_a_pipeline() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut other] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    one.send(|out| {
        parse(out, "q", "SELECT 1");
        frontend::flush(out);
    });
    assert_eq!(told(&[one.read()]), ["1"]);
    assert_eq!(told(&one.query("SELECT 2")), ["T", "2", "C", "I"]);
    assert_eq!(told(&other.query("SELECT 'other'")), ["T", "other", "C", "I"]);
}

#[test]
fn an_incomplete_message_takes_no_connection() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut idle, mut slow, mut other] = [(); 3].map(|()| Wire::login(&pooled.url).expect("log in"));
    idle.send(|out| out.extend_from_slice(b"Q"));
    let mut message = BytesMut::new();
    frontend::query("SELECT 'slow'", &mut message).expect("query");
    for at in 0..message.len() {
        slow.send(|out| out.extend_from_slice(&message[at..=at]));
        assert_eq!(
            told(&other.query("SELECT 'other'")),
            ["T", "other", "C", "I"],
            "byte {at}"
        );
    }
    assert_eq!(told(&slow.read_until_ready()), ["T", "slow", "C", "I"]);
}

/// During COPY, the server ignores a Sync; the next one ends the pipeline.
#[test]
fn a_sync_during_copy_does_not_end_the_pipeline() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let [mut one, mut other] = [(); 2].map(|()| Wire::login(&pooled.url).expect("log in"));
    let row = |out: &mut BytesMut| {
        let data = frontend::CopyData::new(&b"copied\n"[..]).expect("a row");
        data.write(out);
    };
    one.send(|out| {
        parse(out, "", "COPY s (a) FROM STDIN");
        run_prepared(out, "");
        frontend::flush(out);
    });
    assert_eq!(told(&[(); 3].map(|()| one.read())), ["1", "2", "G"]);
    one.send(|out| {
        row(out);
        frontend::sync(out);
        row(out);
        frontend::copy_done(out);
        frontend::flush(out);
    });
    assert_eq!(told(&[one.read()]), ["C"]);
    other.send(|out| frontend::query("SELECT 'other'", out).expect("query"));
    thread::sleep(WAITS);
    one.send(frontend::sync);
    assert_eq!(told(&one.read_until_ready()), ["I"]);
    assert_eq!(told(&other.read_until_ready()), ["T", "other", "C", "I"]);
}

/// The proxy keeps them, so they must have a limit.
#[test]
fn the_prepared_statements_of_a_client_have_a_limit() {
    let _turn = TURN.blocking_lock();
    let pooled = pooled();
    let mut client = Wire::login(&pooled.url).expect("log in");
    let text = format!("SELECT '{}'", "x".repeat(2_000_000));
    let ended = (0..40).find_map(|number| {
        client.send(|out| {
            parse(out, &format!("s{number}"), &text);
            frontend::sync(out);
        });
        let reply = client.read();
        if reply.tag == b'1' {
            client.read_until_ready();
        }
        (reply.tag == b'E').then(|| (number, told(&[reply])))
    });
    let (number, report) = ended.expect("an error");
    assert_eq!(report, ["54000 too many prepared statements"]);
    assert!(number > 30, "after {number}");
    let mut other = Wire::login(&pooled.url).expect("log in");
    assert_eq!(told(&other.query("SELECT 'other'")), ["T", "other", "C", "I"]);
}
