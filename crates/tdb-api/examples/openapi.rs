//! Prints the API's description: `cargo run -p tdb-api --example openapi > openapi.json`.

fn main() -> Result<(), serde_json::Error> {
    println!("{}", tdb_api::openapi().to_pretty_json()?);
    Ok(())
}
