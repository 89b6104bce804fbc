//! What a deployment does to each tenant, computed from the changes of its version and of the target version. No I/O.

use std::collections::{BTreeSet, HashMap};

/// What a deployment does to tenants of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// They lack these changes, in this order.
    Bring(Vec<u32>),
    /// They have all changes, and perhaps more. Changes are never taken away.
    Nothing,
}

/// The path from each of these versions to the target.
pub(crate) fn paths<'a>(target: &[u32], fleet: impl IntoIterator<Item = (u32, &'a [u32])>) -> HashMap<u32, Path> {
    fleet
        .into_iter()
        .map(|(version, held)| (version, path(target, held)))
        .collect()
}

fn path(target: &[u32], held: &[u32]) -> Path {
    let held: BTreeSet<u32> = held.iter().copied().collect();
    let missing: Vec<u32> = target.iter().copied().filter(|id| !held.contains(id)).collect();
    if missing.is_empty() {
        Path::Nothing
    } else {
        Path::Bring(missing)
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
