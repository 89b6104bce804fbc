//! The little of the protocol that `query` needs and tokio-postgres hides: type oids and command tags.
