//! Logical database names: the names that clients put in their connection strings.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::name::{BlueprintName, NameError, TenantName};

/// PostgreSQL's limit for identifiers in bytes (NAMEDATALEN − 1; manual, "Lexical Structure"). PostgreSQL silently
/// truncates longer ones, so that two tenants could share one database.
pub const PHYSICAL_NAME_LEN_MAX: usize = 63;

const _: () = assert!(BlueprintName::LEN_MAX + "__".len() + TenantName::LEN_MAX == PHYSICAL_NAME_LEN_MAX);
const _: () = assert!(BlueprintName::LEN_MAX + "_dev".len() <= PHYSICAL_NAME_LEN_MAX);

/// The grammar of database names in one sentence, for hints.
pub const DATABASE_GRAMMAR: &str = "A database name is <blueprint>_dev for a workspace or <blueprint>__<tenant> for a tenant; names are lower-case letters and digits joined by single \"_\" or \"-\".";

/// The database of a workspace (`<blueprint>_dev`) or of a tenant (`<blueprint>__<tenant>`). The two sets are disjoint:
/// blueprint and tenant names cannot contain `__`, so only tenant databases do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DatabaseName {
    /// `<blueprint>_dev`
    Workspace(BlueprintName),
    /// `<blueprint>__<tenant>`
    Tenant {
        /// The blueprint that the database was created from.
        blueprint: BlueprintName,
        /// The tenant that owns the database.
        tenant: TenantName,
    },
}

/// The text is not a database name. The messages are clauses that follow "because" or a colon.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DatabaseNameError {
    /// The text has neither a `__` nor the suffix `_dev`.
    #[error("it is neither <blueprint>_dev nor <blueprint>__<tenant>")]
    Shape,
    /// The part before `_dev` or `__` is not a blueprint name.
    #[error("the blueprint's name {0}")]
    Blueprint(#[source] NameError),
    /// The part after `__` is not a tenant name.
    #[error("the tenant's name {0}")]
    Tenant(#[source] NameError),
}

impl DatabaseName {
    /// The blueprint whose schema the database has.
    pub fn blueprint(&self) -> &BlueprintName {
        match self {
            DatabaseName::Workspace(blueprint) | DatabaseName::Tenant { blueprint, .. } => blueprint,
        }
    }
}

impl FromStr for DatabaseName {
    type Err = DatabaseNameError;

    fn from_str(text: &str) -> Result<Self, DatabaseNameError> {
        if let Some((blueprint, tenant)) = text.split_once("__") {
            return Ok(DatabaseName::Tenant {
                blueprint: blueprint.parse().map_err(DatabaseNameError::Blueprint)?,
                tenant: tenant.parse().map_err(DatabaseNameError::Tenant)?,
            });
        }
        let blueprint = text.strip_suffix("_dev").ok_or(DatabaseNameError::Shape)?;
        Ok(DatabaseName::Workspace(
            blueprint.parse().map_err(DatabaseNameError::Blueprint)?,
        ))
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseName::Workspace(blueprint) => write!(f, "{blueprint}_dev"),
            DatabaseName::Tenant { blueprint, tenant } => write!(f, "{blueprint}__{tenant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENTS: &str = "[a-z0-9]{1,6}([_-][a-z0-9]{1,6}){0,3}";

    fn database() -> impl Strategy<Value = DatabaseName> {
        let blueprint = SEGMENTS.prop_filter_map("blueprint", |t| t.parse::<BlueprintName>().ok());
        let tenant = SEGMENTS.prop_filter_map("tenant", |t| t.parse::<TenantName>().ok());
        (blueprint, prop::option::of(tenant)).prop_map(|(blueprint, tenant)| match tenant {
            None => DatabaseName::Workspace(blueprint),
            Some(tenant) => DatabaseName::Tenant { blueprint, tenant },
        })
    }

    proptest! {
        #[test]
        fn parse_of_format_is_the_same_name(name in database()) {
            let text = name.to_string();
            prop_assert!(text.len() <= PHYSICAL_NAME_LEN_MAX);
            prop_assert_eq!(text.parse::<DatabaseName>(), Ok(name));
        }

        #[test]
        fn format_of_parse_is_the_same_text(text in "[a-z0-9_-]{0,70}|\\PC{0,70}") {
            if let Ok(name) = text.parse::<DatabaseName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn ambiguous_and_hostile_names_are_refused() {
        for text in [
            "",
            "_dev",
            "dev",
            "foo",
            "foo__dev",
            "foo___dev",
            "__x",
            "x__",
            "a__b__c",
            "a__b_",
            "A_dev",
            "a_dev\0",
            "a__b\0",
            "postgres",
            "template1",
            "tenantsdb",
            "foo__ä",
            "foo__\"; drop table x",
            "../x_dev",
            "tdb_base",
            "tdbx_dev",
        ] {
            assert!(text.parse::<DatabaseName>().is_err(), "{text:?}");
        }
        let longest = format!("{}__{}", "b".repeat(25), "t".repeat(36));
        assert!(longest.parse::<DatabaseName>().is_ok());
        assert!(format!("{longest}t").parse::<DatabaseName>().is_err());
    }
}
