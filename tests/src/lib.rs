//! The harness of the end-to-end tests: the built binaries as processes of their own, PostgreSQL's own programs, and
//! raw JSON over HTTP. It knows the contract only, none of the product's types for requests and answers: a renamed
//! field fails here. Everything panics with what was seen; nothing here fakes a server.

mod api;
mod audit;
mod binaries;
pub mod files;
mod fixture;
pub mod installation;
mod instance;
mod lab;
mod page;
mod programs;
mod python;
mod secrets;
mod serve;
mod session;
mod terminal;
mod transcript;
mod wait;
mod wire;

pub use api::{Answer, Api};
pub use binaries::{Binaries, target_dir, workspace_root};
pub use fixture::{SCHEMA, fixture};
pub use instance::{Instance, InstanceOptions, Killed};
pub use lab::{Tenant, Workspace};
pub use page::{Block, Page, is_generated};
pub use programs::{
    Background, Ran, clean, ignores, pg_dump, pg_program, pg_restore_over, pgbench, psql, psql_file, run, schema_dump,
};
pub use python::python;
pub use serve::{Serve, Site};
pub use session::{Session, Tls, connect, database_of, sqlstate, url_with};
pub use terminal::terminal;
pub use transcript::Transcript;
pub use wait::{eventually, eventually_async};
pub use wire::{Frame, Wire};
