//! The support code of the end-to-end tests: the built binaries as separate processes, PostgreSQL's programs, and raw JSON
//! over HTTP. It uses none of the product's request and response types, so a renamed field makes a test fail. Functions
//! panic with what was received. No server is simulated.

mod api;
mod audit;
mod binaries;
pub mod differential;
pub mod files;
mod fixture;
mod ice;
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
pub use ice::{only, promptly, with_ice};
pub use instance::{Instance, InstanceOptions, Killed};
pub use lab::{Tenant, Workspace};
pub use page::{Block, Page, is_generated};
pub use programs::{
    Background, Ran, clean, ignores, pg_dump, pg_program, pg_restore_over, pgbench, psql, psql_file, run, schema_dump,
};
pub use python::python;
pub use serve::{Serve, Site};
pub use session::{Session, Tls, column, connect, database_of, in_database, sqlstate, url_of, url_with};
pub use terminal::terminal;
pub use transcript::Transcript;
pub use wait::{eventually, eventually_async};
pub use wire::{Frame, Wire};
