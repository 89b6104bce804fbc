//! The places of workspaces' journals.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tdb_names::{ServerName, WorkspaceId};
use tdb_store::workspaces::WorkspaceRow;

use crate::error::Result;
use crate::lifecycle::place::database_name;

const PLACES_MAX: usize = 10_000;

/// A cache that makes drains faster.
#[derive(Debug, Default)]
pub(crate) struct JournalPlaces {
    places: Mutex<HashMap<WorkspaceId, Arc<JournalPlace>>>,
}

/// The place of a ready workspace's journal. It never changes.
#[derive(Debug)]
pub(crate) struct JournalPlace {
    pub server: ServerName,
    pub database: String,
    pub owner: String,
}

impl JournalPlaces {
    pub(crate) fn place(&self, id: WorkspaceId) -> Option<Arc<JournalPlace>> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&id).cloned()
    }

    pub(crate) fn remember(&self, row: &WorkspaceRow) -> Result<Arc<JournalPlace>> {
        let place = Arc::new(JournalPlace {
            server: row.physical.server.clone(),
            database: database_name(&row.physical)?.to_owned(),
            owner: row.physical.roles.owner.name.clone(),
        });
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(row.id, place.clone());
        Ok(place)
    }

    pub(crate) fn forget(&self, id: WorkspaceId) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.remove(&id);
    }
}
