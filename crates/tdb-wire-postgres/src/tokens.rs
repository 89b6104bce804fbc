//! Splits SQL text into tokens, as far as their boundaries require: where strings, quoted names and comments begin and end,
//! as in PostgreSQL's `scan.l`. Nothing is parsed or copied. Text that PostgreSQL's scanner refuses (an unterminated string,
//! `1a`) is not refused here: the server refuses such a text as a whole before it executes any of it.

/// The settings of the server that affect tokens. They can change while messages are in transit: see [`ScanSettings::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanSettings {
    /// The setting `standard_conforming_strings`.
    pub strings: Strings,
    /// The setting `client_encoding`.
    pub encoding: Encoding,
}

/// The meaning of a backslash in a string without a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strings {
    /// An ordinary character.
    Standard,
    /// It escapes the next character.
    Escaped,
}

/// How the length of a non-ASCII character is determined. In client-only encodings, the second byte of a character can be a
/// backslash or a bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// All bytes are above 0x7f: UTF-8, LATIN1, EUC and others.
    High,
    /// BIG5, GBK, UHC.
    TwoBytes,
    /// SJIS, SHIFT_JIS_2004.
    ShiftJis,
    /// GB18030.
    Gb18030,
}

/// A token. Names and strings are as written, without their quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'t> {
    /// A keyword, an unquoted name, or a number.
    Word(&'t [u8]),
    /// A quoted name.
    Quoted(&'t [u8]),
    /// A quoted name with Unicode escapes (`U&"…"`).
    Escaped(&'t [u8]),
    /// A string of any kind.
    String(&'t [u8]),
    /// The end of a statement.
    Semicolon,
    /// Any other character, such as an operator or a parenthesis.
    Other(u8),
}

/// An iterator over the tokens of a text.
#[derive(Clone, Debug)]
pub struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
    begun: usize,
    settings: ScanSettings,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// `'…'` in which a backslash is an ordinary character, and `U&'…'`.
    Plain,
    /// `E'…'`.
    Backslash,
    /// `B'…'`, `X'…'`: two quotes end a string and begin another.
    Bits,
}

impl ScanSettings {
    /// The default settings of a server.
    pub const USUAL: ScanSettings = ScanSettings {
        strings: Strings::Standard,
        encoding: Encoding::High,
    };

    /// All possible settings.
    pub fn all() -> impl Iterator<Item = ScanSettings> {
        let encodings = [
            Encoding::High,
            Encoding::TwoBytes,
            Encoding::ShiftJis,
            Encoding::Gb18030,
        ];
        encodings.into_iter().flat_map(|encoding| {
            [Strings::Standard, Strings::Escaped].map(|strings| ScanSettings { strings, encoding })
        })
    }

    /// Whether a text has the same tokens with all settings.
    pub fn is_irrelevant_to(text: &[u8]) -> bool {
        text.iter().all(|byte| byte.is_ascii() && *byte != b'\\')
    }
}

impl Strings {
    /// The meaning for a value of `standard_conforming_strings`.
    pub fn of(value: &[u8]) -> Self {
        match value {
            b"on" => Strings::Standard,
            _ => Strings::Escaped,
        }
    }
}

impl Encoding {
    /// The encoding for a value of `client_encoding`, as the server reports it.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"BIG5" | b"GBK" | b"UHC" => Encoding::TwoBytes,
            b"SJIS" | b"SHIFT_JIS_2004" => Encoding::ShiftJis,
            b"GB18030" => Encoding::Gb18030,
            _ => Encoding::High,
        }
    }

    /// The length in bytes of the character that begins with `first`, as in PostgreSQL's `pg_encoding_mblen`.
    fn len(self, first: u8, second: Option<u8>) -> usize {
        match self {
            _ if first.is_ascii() => 1,
            Encoding::High => 1,
            Encoding::TwoBytes => 2,
            Encoding::ShiftJis if (0xa1..=0xdf).contains(&first) => 1,
            Encoding::ShiftJis => 2,
            Encoding::Gb18030 if second.is_some_and(|byte| byte.is_ascii_digit()) => 4,
            Encoding::Gb18030 => 2,
        }
    }
}

impl<'t> Tokens<'t> {
    /// The tokens of a text without its final zero byte.
    pub fn new(text: &'t [u8], settings: ScanSettings) -> Self {
        Self {
            text,
            at: 0,
            begun: 0,
            settings,
        }
    }

    /// The byte positions at which the last token begins and ends, its prefix and quotes included.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.begun..self.at.min(self.text.len())
    }

    /// The byte at this distance ahead.
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    /// The text after the last token.
    pub fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn since(&self, start: usize) -> &'t [u8] {
        self.text.get(start..self.at.min(self.text.len())).unwrap_or_default()
    }

    /// Skips one character.
    fn step(&mut self) {
        if let Some(first) = self.peek(0) {
            self.at += self.settings.encoding.len(first, self.peek(1));
        }
    }

    fn step_while(&mut self, is: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&is) {
            self.step();
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            self.step_while(is_space);
            if self.rest().starts_with(b"--") {
                self.step_while(|byte| !is_newline(byte));
            } else if self.rest().starts_with(b"/*") {
                self.skip_comment();
            } else {
                return;
            }
        }
    }

    /// Skips a comment. Comments can be nested.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.text.len() {
            if self.rest().starts_with(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.rest().starts_with(b"*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.step();
            }
        }
    }

    fn word(&mut self) -> Token<'t> {
        let start = self.at;
        self.step_while(is_name_part);
        Token::Word(self.since(start))
    }

    /// Reads a string after its opening quote. It continues if only whitespace with a line break precedes another quote.
    fn string(&mut self, quoting: Quoting) -> Token<'t> {
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' if quoting == Quoting::Backslash => {
                    self.at += 1;
                    self.step();
                }
                b'\'' if quoting != Quoting::Bits && self.peek(1) == Some(b'\'') => self.at += 2,
                b'\'' => {
                    let content = self.since(start);
                    self.at += 1;
                    let Some(continued) = self.continuation() else {
                        return Token::String(content);
                    };
                    self.at = continued;
                }
                _ => self.step(),
            }
        }
        Token::String(self.since(start))
    }

    /// The position at which the string that has just ended continues (`quotecontinue` in `scan.l`).
    fn continuation(&self) -> Option<usize> {
        let mut ahead = self.clone();
        ahead.step_while(|byte| is_space(byte) && !is_newline(byte));
        while ahead.skip_line_comment() {
            ahead.step_while(|byte| is_space(byte) && !is_newline(byte));
        }
        if !ahead.peek(0).is_some_and(is_newline) {
            return None;
        }
        ahead.step_while(is_space);
        while ahead.skip_line_comment() {
            ahead.step_while(is_space);
        }
        (ahead.peek(0) == Some(b'\'')).then_some(ahead.at + 1)
    }

    fn skip_line_comment(&mut self) -> bool {
        let begins = self.rest().starts_with(b"--");
        if begins {
            self.step_while(|byte| !is_newline(byte));
        }
        begins
    }

    /// Reads a quoted name after its opening quote.
    fn quoted(&mut self) -> &'t [u8] {
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' if self.peek(1) == Some(b'"') => self.at += 2,
                b'"' => {
                    let content = self.since(start);
                    self.at += 1;
                    return content;
                }
                _ => self.step(),
            }
        }
        self.since(start)
    }

    /// Reads a dollar-quoted string, a parameter, or a single dollar.
    fn dollar(&mut self) -> Token<'t> {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(|byte| !byte.is_ascii_digit()) {
            self.step_while(|byte| is_name_part(byte) && byte != b'$');
        }
        if self.peek(0) != Some(b'$') {
            self.at = start + 1;
            self.step_while(|byte| byte.is_ascii_digit());
            return Token::Other(b'$');
        }
        self.at += 1;
        let (delimiter, body) = (self.since(start), self.at);
        while self.at < self.text.len() {
            if self.rest().starts_with(delimiter) {
                let content = self.since(body);
                self.at += delimiter.len();
                return Token::String(content);
            }
            self.step();
        }
        Token::String(self.since(body))
    }

    /// Reads a string or name whose prefix is a letter.
    fn prefixed(&mut self) -> Option<Token<'t>> {
        let (first, second, third) = (self.peek(0)?.to_ascii_lowercase(), self.peek(1)?, self.peek(2));
        let (len, quoting) = match (first, second, third) {
            (b'e', b'\'', _) => (2, Quoting::Backslash),
            (b'b' | b'x', b'\'', _) => (2, Quoting::Bits),
            (b'n', b'\'', _) => (2, self.unprefixed()),
            (b'u', b'&', Some(b'\'')) => (3, Quoting::Plain),
            (b'u', b'&', Some(b'"')) => {
                self.at += 3;
                return Some(Token::Escaped(self.quoted()));
            }
            _ => return None,
        };
        self.at += len;
        Some(self.string(quoting))
    }

    fn unprefixed(&self) -> Quoting {
        match self.settings.strings {
            Strings::Standard => Quoting::Plain,
            Strings::Escaped => Quoting::Backslash,
        }
    }
}

impl<'t> Iterator for Tokens<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        self.skip_blanks();
        self.begun = self.at;
        if let Some(token) = self.prefixed() {
            return Some(token);
        }
        match self.peek(0)? {
            b'\'' => {
                self.at += 1;
                Some(self.string(self.unprefixed()))
            }
            b'"' => {
                self.at += 1;
                Some(Token::Quoted(self.quoted()))
            }
            b'$' => Some(self.dollar()),
            b';' => {
                self.at += 1;
                Some(Token::Semicolon)
            }
            // A number. PostgreSQL 15 and later refuse one that is followed by a name without whitespace.
            byte if byte.is_ascii_digit() => {
                let start = self.at;
                self.step_while(|byte| is_name_part(byte) && byte != b'$');
                Some(Token::Word(self.since(start)))
            }
            byte if is_name_part(byte) => Some(self.word()),
            byte => {
                self.step();
                Some(Token::Other(byte))
            }
        }
    }
}

fn is_newline(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A name can begin with any of these except digits and `$`.
fn is_name_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}
