//! The places of workspaces' journals.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tdb_names::{ServerName, WorkspaceId};
use tdb_store::workspaces::WorkspaceRow;

use crate::error::Result;
use crate::lifecycle::place::database_name;

const PLACES_MAX: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(places) => places,
    None => NonZeroUsize::MIN,
};

/// A cache that makes drains faster.
#[derive(Debug)]
pub(crate) struct JournalPlaces {
    places: Mutex<LruCache<WorkspaceId, Arc<JournalPlace>>>,
}

/// The place of a ready workspace's journal. It never changes.
#[derive(Debug)]
pub(crate) struct JournalPlace {
    pub server: ServerName,
    pub database: String,
    pub owner: String,
}

impl Default for JournalPlaces {
    fn default() -> Self {
        Self {
            places: Mutex::new(LruCache::new(PLACES_MAX)),
        }
    }
}

impl JournalPlaces {
    pub(crate) fn place(&self, id: WorkspaceId) -> Option<Arc<JournalPlace>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&id).cloned()
    }

    pub(crate) fn remember(&self, row: &WorkspaceRow) -> Result<Arc<JournalPlace>> {
        let place = Arc::new(JournalPlace {
            server: row.physical.server.clone(),
            database: database_name(&row.physical)?.to_owned(),
            owner: row.physical.roles.owner.name.clone(),
        });
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.put(row.id, place.clone());
        Ok(place)
    }

    pub(crate) fn forget(&self, id: WorkspaceId) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.pop(&id);
    }
}
