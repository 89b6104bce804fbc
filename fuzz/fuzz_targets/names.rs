//! Parses any text as names. A valid name must be printed unchanged, fit PostgreSQL's limit, and have only one meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tdb_names::{BlueprintName, DatabaseName, PHYSICAL_NAME_LEN_MAX, ProjectId, TenantName, UserName};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<DatabaseName>() {
        assert_eq!(name.to_string(), text);
        assert!(text.len() <= PHYSICAL_NAME_LEN_MAX);
        match &name {
            DatabaseName::Workspace(blueprint) => assert_eq!(format!("{blueprint}_dev"), text),
            DatabaseName::Tenant { blueprint, tenant } => assert_eq!(format!("{blueprint}__{tenant}"), text),
        }
    }
    if let Ok(name) = text.parse::<BlueprintName>() {
        let workspace = DatabaseName::Workspace(name.clone());
        assert_eq!(workspace.to_string().parse(), Ok(workspace));
    }
    let _ = text.parse::<TenantName>().map(|name| assert_eq!(name.as_str(), text));
    let _ = text.parse::<UserName>().map(|name| assert_eq!(name.as_str(), text));
    let _ = text.parse::<ProjectId>().map(|id| assert_eq!(id.as_str(), text));
});
