//! What a deployment does to each tenant: pure, from what each holds and what the version holds.

use std::collections::{BTreeSet, HashMap};

/// What is to be done on a tenant that holds one set of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// It lacks these, in this order.
    Bring(Vec<u32>),
    /// It holds all of them, and perhaps more: a version is never taken away.
    Nothing,
}

/// The path from every version found in the fleet to the target.
pub(crate) fn paths<'a>(target: &[u32], fleet: impl IntoIterator<Item = (u32, &'a [u32])>) -> HashMap<u32, Path> {
    fleet
        .into_iter()
        .map(|(version, held)| (version, path(target, held)))
        .collect()
}

fn path(target: &[u32], held: &[u32]) -> Path {
    let held: BTreeSet<u32> = held.iter().copied().collect();
    let missing: Vec<u32> = target.iter().copied().filter(|id| !held.contains(id)).collect();
    match missing.is_empty() {
        true => Path::Nothing,
        false => Path::Bring(missing),
    }
}

impl Path {
    pub(crate) fn len(&self) -> u32 {
        match self {
            Path::Bring(missing) => u32::try_from(missing.len()).unwrap_or(u32::MAX),
            Path::Nothing => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_gets_what_it_lacks_in_the_versions_order() {
        let target = [1, 2, 4, 5];
        let fleet: [(u32, &[u32]); 4] = [(1, &[]), (2, &[1, 2]), (3, &[1, 2, 4, 5]), (4, &[1, 2, 4, 5, 6])];
        let paths = paths(&target, fleet);
        assert_eq!(paths[&1], Path::Bring(vec![1, 2, 4, 5]));
        assert_eq!(paths[&2], Path::Bring(vec![4, 5]));
        assert_eq!(paths[&3], Path::Nothing);
        assert_eq!(paths[&4], Path::Nothing);
        assert_eq!((paths[&1].len(), paths[&3].len()), (4, 0));
    }
}
