//! Rewrites the API's hints: an endpoint (`POST /tenants/{id}/restore`) is replaced by the `tdb` command that calls it. The
//! table has an entry for every endpoint; an endpoint that is not in the table is shown unchanged.

use serde_json::Value;

/// Method, path and command. A placeholder in braces is a segment of the path or a field of the body.
const COMMANDS: [(&str, &str, &str); 59] = [
    ("POST", "/signup", "tdb signup"),
    ("POST", "/login", "tdb login"),
    ("GET", "/projects", "tdb projects list"),
    ("POST", "/projects", "tdb projects create"),
    ("DELETE", "/projects/{id}", "tdb projects delete {id}"),
    (
        "POST",
        "/projects/{id}/credential",
        "tdb projects rotate-credential {id}",
    ),
    ("GET", "/apikeys", "tdb apikeys list"),
    ("POST", "/apikeys", "tdb apikeys create"),
    ("DELETE", "/apikeys/{id}", "tdb apikeys delete {id}"),
    ("GET", "/workspaces", "tdb workspaces list"),
    ("POST", "/workspaces", "tdb workspaces create"),
    ("GET", "/workspaces/{id}", "tdb workspaces get {id}"),
    ("DELETE", "/workspaces/{id}", "tdb workspaces delete {id}"),
    ("GET", "/workspaces/{id}/schema", "tdb workspaces schema {id}"),
    ("GET", "/workspaces/{id}/diff", "tdb workspaces diff {id}"),
    (
        "DELETE",
        "/workspaces/{id}/diff",
        "tdb workspaces diff-skip {id} {ddl_ids}",
    ),
    (
        "DELETE",
        "/workspaces/{id}/diff/{ddl_id}",
        "tdb workspaces diff-skip {id} {ddl_id}",
    ),
    (
        "POST",
        "/workspaces/{id}/diff/{ddl_id}/revert",
        "tdb workspaces diff-revert {id} {ddl_id}",
    ),
    ("POST", "/workspaces/{id}/queries", "tdb workspaces query {id}"),
    ("GET", "/workspaces/{id}/settings", "tdb workspaces settings {id}"),
    ("POST", "/workspaces/{id}/settings", "tdb workspaces settings {id}"),
    ("GET", "/workspaces/{id}/extensions", "tdb workspaces extensions {id}"),
    (
        "POST",
        "/workspaces/{id}/extensions",
        "tdb workspaces extensions {id} --create {name}",
    ),
    ("GET", "/blueprints", "tdb blueprints list"),
    ("GET", "/blueprints/{name}", "tdb blueprints get {name}"),
    ("GET", "/blueprints/{name}/versions", "tdb blueprints versions {name}"),
    ("GET", "/tenants", "tdb tenants list"),
    ("POST", "/tenants", "tdb tenants create"),
    ("GET", "/tenants/{id}", "tdb tenants get {id}"),
    ("DELETE", "/tenants/{id}", "tdb tenants delete {id}"),
    ("DELETE", "/tenants/{id}?hard=true", "tdb tenants delete {id} --hard"),
    ("POST", "/tenants/{id}/suspend", "tdb tenants suspend {id}"),
    ("POST", "/tenants/{id}/resume", "tdb tenants resume {id}"),
    ("POST", "/tenants/{id}/restore", "tdb tenants restore {id}"),
    ("GET", "/tenants/{id}/limits", "tdb tenants limits {id}"),
    ("PUT", "/tenants/{id}/limits", "tdb tenants limits {id}"),
    ("GET", "/tenants/{id}/deployments", "tdb tenants deployments {id}"),
    ("GET", "/deployments", "tdb deployments list"),
    ("POST", "/deployments", "tdb deployments create"),
    ("GET", "/deployments/{id}", "tdb deployments status {id}"),
    ("POST", "/deployments/{id}/retry", "tdb deployments retry {id}"),
    ("GET", "/deployments/{id}/events", "tdb deployments status {id} --watch"),
    ("POST", "/admin/query", "tdb query"),
    ("GET", "/servers", "tdb servers list"),
    ("POST", "/servers", "tdb servers register"),
    ("GET", "/servers/{name}", "tdb servers get {name}"),
    ("DELETE", "/servers/{name}", "tdb servers delete {name}"),
    ("POST", "/servers/{name}/test", "tdb servers test {name}"),
    ("POST", "/servers/{name}/drain", "tdb servers drain {name}"),
    ("POST", "/servers/{name}/resume", "tdb servers resume {name}"),
    ("GET", "/credentials", "tdb credentials list"),
    ("POST", "/credentials", "tdb credentials create"),
    ("DELETE", "/credentials/{id}", "tdb credentials delete {id}"),
    ("GET", "/drift", "tdb drift"),
    ("POST", "/drift/refresh", "tdb drift"),
    ("POST", "/drift/repair", "tdb drift --repair"),
    ("GET", "/projects/{id}/roles", "tdb roles list"),
    ("POST", "/projects/{id}/roles", "tdb roles create {name}"),
    ("DELETE", "/projects/{id}/roles/{name}", "tdb roles delete {name}"),
];
const METHODS: [&str; 5] = ["GET ", "POST ", "PUT ", "PATCH ", "DELETE "];

/// Replaces each endpoint in `hint` by a command in quotes.
pub(crate) fn as_commands(hint: &str) -> String {
    let mut said = String::new();
    let mut rest = hint;
    while let Some((before, call)) = next_call(rest) {
        said.push_str(before);
        match call.command() {
            Some(command) => said.push_str(&format!("\"{command}\"")),
            None => said.push_str(call.text),
        }
        rest = rest.get(before.len() + call.text.len()..).unwrap_or_default();
    }
    said + rest
}

/// An endpoint in a hint.
struct Call<'a> {
    text: &'a str,
    method: &'a str,
    path: &'a str,
    body: Option<Value>,
}

/// The first endpoint in `text`, and the text before it.
fn next_call(text: &str) -> Option<(&str, Call<'_>)> {
    let starts = METHODS.iter().flat_map(|method| {
        let found = text.match_indices(method);
        found.filter(|(at, _)| text.get(at + method.len()..).is_some_and(|rest| rest.starts_with('/')))
    });
    let (at, method) = starts.min_by_key(|(at, _)| *at)?;
    let (before, call) = text.split_at_checked(at)?;
    let path = call.get(method.len()..)?;
    let end = path
        .find(|c: char| c.is_whitespace() || ",;)".contains(c))
        .unwrap_or(path.len());
    let path = path.get(..end)?.trim_end_matches(['.', ':']);
    let mut len = method.len() + path.len();
    let mut body = None;
    if let Some(json) = call
        .get(len..)
        .and_then(|rest| rest.strip_prefix(' '))
        .filter(|json| json.starts_with('{'))
    {
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            body = Some(value);
            len += 1 + values.byte_offset();
        }
    }
    let call = Call {
        text: call.get(..len)?,
        method: method.trim_end(),
        path,
        body,
    };
    Some((before, call))
}

impl Call<'_> {
    fn command(&self) -> Option<String> {
        COMMANDS
            .iter()
            .filter(|(method, ..)| *method == self.method)
            .find_map(|(_, path, command)| Some(self.filled(command, &bound(path, self.path)?)))
    }

    fn filled(&self, command: &str, bound: &[(&str, &str)]) -> String {
        let words = command.split(' ').map(|word| {
            let Some(name) = placeholder(word) else {
                return word.to_owned();
            };
            let segment = bound.iter().find(|(bound, _)| *bound == name).map(|(_, value)| *value);
            let field = || self.body.as_ref()?.get(name).and_then(argument);
            let value = segment.map(str::to_owned).or_else(field);
            let value = value.filter(|value| placeholder(value).is_none());
            value.unwrap_or_else(|| stand_in(name).to_owned())
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The placeholders of the template with their values in `path`; `None` if the path does not match the template.
fn bound<'a>(template: &'a str, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let (template, query) = template.split_once('?').unwrap_or((template, ""));
    let (path, given) = path.split_once('?').unwrap_or((path, ""));
    let (names, values): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    if names.len() != values.len() || query != given {
        return None;
    }
    let pairs = names
        .into_iter()
        .zip(values)
        .filter(|(name, value)| name != value || placeholder(name).is_some());
    pairs.map(|(name, value)| Some((placeholder(name)?, value))).collect()
}

fn placeholder(word: &str) -> Option<&str> {
    word.strip_prefix('{')?.strip_suffix('}')
}

/// A field of a body as command line arguments; the values of a list are separated by spaces.
fn argument(field: &Value) -> Option<String> {
    match field {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => {
            let all: Option<Vec<String>> = values.iter().map(argument).collect();
            all.map(|all| all.join(" "))
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
    }
}

/// The text for a placeholder whose value the hint does not contain.
fn stand_in(name: &str) -> &'static str {
    match name {
        "ddl_id" => "NUMBER",
        "ddl_ids" => "NUMBER…",
        _ => "NAME",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_in_a_hint_becomes_the_command_that_calls_it() {
        let table = [
            (
                "GET /tenants lists the tenants.",
                "\"tdb tenants list\" lists the tenants.",
            ),
            ("Log in with POST /login.", "Log in with \"tdb login\"."),
            (
                "Restore it with POST /tenants/{id}/restore, or free the name with DELETE /tenants/{id}?hard=true.",
                "Restore it with \"tdb tenants restore NAME\", or free the name with \"tdb tenants delete NAME --hard\".",
            ),
            (
                "Skip it with DELETE /workspaces/shop/diff/{ddl_id}.",
                "Skip it with \"tdb workspaces diff-skip shop NUMBER\".",
            ),
            (
                "DELETE /workspaces/shop/diff {\"ddl_ids\": [3, 4, 7]} leaves them out.",
                "\"tdb workspaces diff-skip shop 3 4 7\" leaves them out.",
            ),
            (
                "Use POST /workspaces/shop/extensions {\"name\": \"bloom\"}, where allowed.",
                "Use \"tdb workspaces extensions shop --create bloom\", where allowed.",
            ),
            (
                "GET /openapi.json describes all endpoints.",
                "GET /openapi.json describes all endpoints.",
            ),
            ("Nothing to see. POST it.", "Nothing to see. POST it."),
            (
                "GET /weather, then GET /servers",
                "GET /weather, then \"tdb servers list\"",
            ),
        ];
        for (hint, said) in table {
            assert_eq!(as_commands(hint), said);
        }
    }

    #[test]
    fn every_endpoint_has_a_command() {
        let document: Value = serde_json::from_str(include_str!("../../../openapi.json")).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let endpoint = format!("{} {path}", method.to_uppercase());
                let known = as_commands(&endpoint).starts_with("\"tdb ");
                assert!(
                    known || ["/", "/health"].contains(&path.as_str()),
                    "no command for {endpoint}"
                );
            }
        }
    }

    #[test]
    fn every_command_parses_as_far_as_it_goes() {
        use clap::CommandFactory;
        for (_, _, command) in COMMANDS {
            let mut at = crate::arguments::Arguments::command();
            for word in command
                .split(' ')
                .skip(1)
                .take_while(|word| !word.starts_with(['{', '-']))
            {
                let below = at
                    .find_subcommand(word)
                    .unwrap_or_else(|| panic!("no \"{command}\""))
                    .clone();
                at = below;
            }
        }
    }
}
