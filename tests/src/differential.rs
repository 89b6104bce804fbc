//! The differential test of the proxy: generated scripts of protocol messages run through the proxy and directly on twin
//! databases of the same server, and the whole streams of answers are compared message by message. It knows nothing about how
//! the proxy assigns server connections to clients, so it tests every way of doing that.

pub mod client;
pub mod comparison;
pub mod faults;
pub mod generator;
pub mod random;
pub mod round;
pub mod script;
pub mod shrinking;
pub mod statements;
pub mod thief;
pub mod twins;
