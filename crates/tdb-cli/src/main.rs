//! `tdb`, the command line client of the admin API. Data goes to standard output, everything else to standard error. All
//! rules of the product are in the API, none here. Exit status: 0, 1 (failed), 2 (wrong usage), or that of psql.

mod arguments;
mod commands;
mod config_file;
mod endpoints;
mod errors;
mod instance;
mod interrupt;
mod password;
mod printer;
mod progress;
mod signals;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::commands::Outcome;
use crate::errors::report;
use crate::printer::Printer;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(&arguments.output);
    match commands::run(arguments, &printer) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Exited(status)) => ExitCode::from(status),
        Err(error) => {
            report(&error, &printer);
            ExitCode::from(1)
        }
    }
}
