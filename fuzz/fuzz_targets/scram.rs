//! Runs both sides of SCRAM with a peer that does not know the secret: neither a client nor a server may succeed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tdb_auth::ScramVerifier;
use tdb_wire_postgres::login::{Handshake, Step, parse_sasl_initial};
use tdb_wire_postgres::scram::{self, Binding, Outcome};

fuzz_target!(|data: &[u8]| {
    let messages: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    as_server(&messages);
    as_client(&messages);
});

fn as_server(messages: &[&[u8]]) {
    let [first, last, ..] = messages else { return };
    let verifier = || ScramVerifier::mock("ann", b"secret");
    let _ = parse_sasl_initial(first);
    for binding in [Binding::None, Binding::ServerEndPoint(vec![7; 32])] {
        for mechanism in scram::mechanisms(&binding) {
            let begun = scram::begin(mechanism, first, &binding, verifier());
            if let Ok((state, _)) = begun {
                assert!(!matches!(state.finish(last), Ok(Outcome::Genuine(_))));
            }
        }
    }
}

/// Each message is a tag followed by a body.
fn as_client(messages: &[&[u8]]) {
    let mut login = Handshake::new("secret".to_owned().into());
    let offer = [&10i32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    assert!(matches!(login.step(b'R', &offer), Ok(Step::Send(_))));
    for message in messages {
        if let Some((tag, body)) = message.split_first() {
            assert!(
                !matches!(login.step(*tag, body), Ok(Step::Ready(_))),
                "accepted a server without proof"
            );
        }
    }
}
