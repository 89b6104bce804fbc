//! Messages that a server sends: their tags, and builders for those that the proxy sends itself.

use crate::startup::Unsupported;

/// A request for authentication, or its successful end.
pub const AUTHENTICATION: u8 = b'R';
/// Process id and cancel secret.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// The end of a reply, with the status of the transaction.
pub const READY_FOR_QUERY: u8 = b'Z';
/// ErrorResponse.
pub const ERROR: u8 = b'E';
/// NoticeResponse; can be sent at any time.
pub const NOTICE: u8 = b'N';
/// NotificationResponse (LISTEN); can be sent at any time.
pub const NOTIFICATION: u8 = b'A';
/// The value of a setting; can be sent at any time.
pub const PARAMETER_STATUS: u8 = b'S';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// The parameters of a prepared statement.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// The columns of the rows that follow.
pub const ROW_DESCRIPTION: u8 = b'T';
/// The statement returns no rows.
pub const NO_DATA: u8 = b'n';
/// One row.
pub const DATA_ROW: u8 = b'D';
/// The end of a statement, with its command tag.
pub const COMMAND_COMPLETE: u8 = b'C';
/// Sent instead of CommandComplete if the query was empty.
pub const EMPTY_QUERY: u8 = b'I';
/// Execute reached its row limit.
pub const PORTAL_SUSPENDED: u8 = b's';
/// The result of a FunctionCall.
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
/// The server waits for the client's data.
pub const COPY_IN_RESPONSE: u8 = b'G';
/// The server's data follows.
pub const COPY_OUT_RESPONSE: u8 = b'H';
/// Data in both directions (replication).
pub const COPY_BOTH_RESPONSE: u8 = b'W';
/// A piece of copied data.
pub const COPY_DATA: u8 = b'd';
/// The end of copied data.
pub const COPY_DONE: u8 = b'c';

/// The byte that accepts an SSLRequest.
pub const ENCRYPTION_ACCEPTED: u8 = b'S';
/// The byte that refuses an SSLRequest or GSSENCRequest; the connection stays unencrypted.
pub const ENCRYPTION_REFUSED: u8 = b'N';

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    frame(out, PARAMETER_STATUS, |out| {
        for text in [name, value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    });
}

/// Appends a frame whose body is appended by `write`.
pub(crate) fn frame(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    // Bodies built here are far below 4 GB.
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&len);
    }
}

/// Appends AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    frame(out, AUTHENTICATION, |out| out.extend_from_slice(&0i32.to_be_bytes()));
}

/// Appends AuthenticationSASL with the offered mechanisms, in order of preference.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    frame(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&10i32.to_be_bytes());
        for mechanism in mechanisms {
            out.extend_from_slice(mechanism.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

/// Appends AuthenticationSASLContinue with the server's first message.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&11i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends AuthenticationSASLFinal with the server's last message.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, AUTHENTICATION, |out| {
        out.extend_from_slice(&12i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends BackendKeyData. `secret` has 4 bytes in protocol 3.0, and 4 to 256 in protocol 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    frame(out, BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Appends ReadyForQuery outside of a transaction.
pub fn ready_for_query(out: &mut Vec<u8>) {
    frame(out, READY_FOR_QUERY, |out| out.push(b'I'));
}

/// Appends NegotiateProtocolVersion: the minor version of the session, never newer than the client's, and the protocol
/// options that are not supported.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, minor: u16, unsupported: &Unsupported) {
    frame(out, b'v', |out| {
        out.extend_from_slice(&((3i32 << 16) | i32::from(minor)).to_be_bytes());
        let count = i32::try_from(unsupported.options.len()).unwrap_or(0);
        out.extend_from_slice(&count.to_be_bytes());
        for option in &unsupported.options {
            out.extend_from_slice(option.as_bytes());
            out.push(0);
        }
    });
}
