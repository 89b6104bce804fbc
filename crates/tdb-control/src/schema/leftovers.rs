//! What the changes outside head left in the workspace, where a replay of them cannot show it: they fail in a replay, or
//! give another result each time. The objects that they changed are known from the journal.

use tdb_engines::postgres::capture::repeat::{self, Unrepeatable};
use tdb_engines::postgres::fingerprint::Difference;
use tdb_store::workspaces::WorkspaceRow;

use crate::error::Result;
use crate::schema::failing::{Trials, droppable};
use crate::schema::head::Head;

/// Differences between head and the workspace that the changes outside head do not account for.
#[derive(Debug)]
pub(crate) struct Unaccounted {
    pub differences: Vec<Difference>,
    /// Whether the journal names every object that the changes outside head made. Not so for a GRANT, for example.
    pub all_named: bool,
}

/// Accounts for differences by the changes outside head.
#[derive(Clone)]
pub(crate) struct Leftovers {
    pub(crate) trials: Trials,
}

impl Leftovers {
    /// Whether a replay of the changes outside head can have another result than they had in the workspace.
    pub(crate) async fn may_differ(&self, row: &WorkspaceRow, head: &Head) -> Result<bool> {
        let changes = self.trials.builds.numbered_changes(row, &left_out(head)).await?;
        Ok(changes
            .iter()
            .any(|numbered| repeat::unrepeatable(&numbered.change).is_some()))
    }

    /// Removes the differences whose objects a change outside head changed, but not what a change of head made another time
    /// under another name or value.
    pub(crate) async fn unaccounted(
        &self,
        row: &WorkspaceRow,
        head: &Head,
        differences: Vec<Difference>,
    ) -> Result<Unaccounted> {
        let changes = self.trials.builds.numbered_changes(row, &left_out(head)).await?;
        let left: Vec<String> = changes.iter().flat_map(|left| left.change.objects()).collect();
        let suspects = self.trials.suspects(row, &head.ids).await?;
        let by_value = suspects
            .iter()
            .filter(|(_, why)| matches!(why, Unrepeatable::Value(_)))
            .flat_map(|(suspect, _)| suspect.change.objects());
        let by_value: Vec<String> = by_value.collect();
        let concerned = |objects: &[String], text: &str| objects.iter().any(|object| repeat::concerns(object, text));
        let changed = |fact: &str| changes.iter().any(|left| repeat::may_have_changed(&left.change, fact));
        let accounted = |difference: &Difference| match (&difference.expected, &difference.found) {
            (None, found) => changed(&difference.object) || found.as_ref().is_some_and(|found| concerned(&left, found)),
            // The order of columns depends on many changes; the columns are separate facts.
            (Some(_), Some(_)) if difference.object.starts_with("columns of ") => changed(&difference.object),
            (Some(_), _) => changed(&difference.object) && !concerned(&by_value, &difference.object),
        };
        let named = |tags: &[String], objects: &[String]| {
            !tags.is_empty() && tags.len() == objects.len() && tags.iter().all(|tag| droppable(tag).is_some())
        };
        Ok(Unaccounted {
            all_named: changes
                .iter()
                .all(|left| named(&left.change.tags(), &left.change.objects())),
            differences: differences.into_iter().filter(|one| !accounted(one)).collect(),
        })
    }
}

fn left_out(head: &Head) -> Vec<u32> {
    head.left_out().map(|change| change.id).collect()
}
