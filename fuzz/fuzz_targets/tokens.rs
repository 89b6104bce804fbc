//! Splits any text into tokens, with any settings. The tokens must be within the text and in order, there must be no panic,
//! and the effect must be the same at each examination.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tdb_wire_postgres::reading::{Release, examine};
use tdb_wire_postgres::tokens::{ScanSettings, Token, Tokens};

fuzz_target!(|text: &[u8]| {
    let mut worst = None;
    for settings in ScanSettings::all() {
        let mut tokens = Tokens::new(text, settings);
        let mut left = text.len();
        while let Some(token) = tokens.next() {
            assert!(tokens.rest().len() < left, "a token takes something");
            left = tokens.rest().len();
            if let Token::Word(part) | Token::Quoted(part) | Token::Escaped(part) | Token::String(part) = token {
                assert!(text.as_ptr_range().contains(&part.as_ptr()) || part.is_empty());
            }
        }
        worst = worst.max(Some(examine(text, Release::Resets, std::iter::once(settings))));
    }
    assert_eq!(worst, Some(examine(text, Release::Resets, ScanSettings::all())));
});
