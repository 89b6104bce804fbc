//! The fault points of this crate: the places between two steps where a test build can be made to exit. After an exit
//! at any of them, a restart continues, or the sweep removes what is left.

/// All fault points, in the order in which a creation, a deletion, a drain and a deployment reach them.
pub const POINTS: [&str; 35] = [
    "workspace.create.intended",
    "workspace.create.roles",
    "workspace.create.cloned",
    "workspace.create.recorded",
    "workspace.create.adopted",
    "workspace.create.journaled",
    "workspace.create.renamed",
    "workspace.delete.intended",
    "workspace.delete.dropped",
    "workspace.delete.templates",
    "drain.read",
    "drain.logged",
    "drain.confirmed",
    "clone.made",
    "clone.adopted",
    "build.replayed",
    "version.recorded",
    "template.published",
    "spare.intended",
    "spare.ready",
    "tenant.create.intended",
    "tenant.create.claimed",
    "tenant.create.cloned",
    "tenant.create.recorded",
    "tenant.create.adopted",
    "tenant.create.renamed",
    "tenant.close.intended",
    "tenant.close.closed",
    "tenant.open.opened",
    "tenant.delete.intended",
    "tenant.delete.dropped",
    "deploy.claimed",
    "deploy.applied",
    "settings.changed",
    "settings.claimed",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::POINTS;

    // Split, so that a search for calls in the source does not find this line.
    const CALL: &str = concat!("fault::", "point(");

    #[test]
    fn the_list_is_what_the_source_has() {
        let mut found = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, POINTS.iter().map(|point| (*point).to_owned()).collect());
    }

    fn collect(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if !path.ends_with("points.rs") {
                let text = fs::read_to_string(path).unwrap();
                let calls = text.split(CALL).skip(1);
                found.extend(calls.filter_map(|call| Some(call.split('"').nth(1)?.to_owned())));
            }
        }
    }
}
