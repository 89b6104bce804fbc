//! Parses any bytes as the first message of a client. A message that is accepted must be within the limits.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use tdb_wire_postgres::startup::{MINOR_NEWEST, OPENING_LEN_MAX, Opening, opening_len, parse_opening};

fuzz_target!(|data: &[u8]| {
    if let Some(prefix) = data.first_chunk::<4>()
        && let Ok(len) = opening_len(*prefix)
    {
        assert!((8..=OPENING_LEN_MAX).contains(&len));
    }
    match parse_opening(data) {
        Ok(Opening::Startup(startup)) => {
            assert!(!startup.user.is_empty() && !startup.database.is_empty());
            assert!(startup.minor <= MINOR_NEWEST);
            let names: HashSet<_> = startup.parameters.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), startup.parameters.len(), "a parameter occurs twice");
        }
        Ok(Opening::Cancel(request)) => assert!((4..=256).contains(&request.secret.len())),
        Ok(Opening::Tls | Opening::Gss) | Err(_) => {}
    }
});
