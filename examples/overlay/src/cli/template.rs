//! Templates as Docker's users write them: `{{.ID}}`, `{{json .}}`, `table {{.ID}}\t{{.Name}}`.
//!
//! Fields are put in where they are named; loops, conditions and functions are refused, with what there is instead.

use std::str::FromStr;

use serde_json::Value;

use super::Failure;

/// Text with fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Whether lines are laid out in columns, below a line of headers.
    pub(super) table: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The path to a value, whose text is printed.
    Field(Vec<String>),
    /// The path to a value, which is printed as JSON; all of it if empty.
    Json(Vec<String>),
}

/// Objects whose keys users choose: what is missing there is no mistake.
const MAPS: &[&str] = &["Labels", "Options", "Attributes"];

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let columns = text
            .strip_prefix("table")
            .filter(|rest| rest.starts_with([' ', '\t']));
        let text = columns.map_or(text, str::trim_start);
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let (mut parts, mut rest) = (Vec::new(), text.as_str());
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("`{{{{` is not closed in `{text}`"))?;
            parts.push(part(action)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if !parts.iter().any(|part| !matches!(part, Part::Text(_))) {
            return Err(format!(
                "expected `table`, `json`, or fields such as {{{{.ID}}}}, found `{text}`"
            ));
        }
        let table = columns.is_some();
        Ok(Self { table, parts })
    }
}

fn part(action: &str) -> Result<Part, String> {
    let refused = || {
        format!(
            "`{{{{{action}}}}}` is not offered: only fields such as {{{{.ID}}}}, and {{{{json .}}}} or {{{{json .ID}}}}; \
             for more, pipe `--format json` into jq"
        )
    };
    let words: Vec<&str> = action.split_whitespace().collect();
    let path = |word: &str| {
        let names = word.strip_prefix('.')?;
        let names: Vec<String> = names.split('.').map(str::to_owned).collect();
        let plain = |name: &String| {
            let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
            !name.is_empty() && name.chars().all(fits)
        };
        names.iter().all(plain).then_some(names)
    };
    match words[..] {
        [word] => path(word).map(Part::Field),
        ["json", "."] => Some(Part::Json(Vec::new())),
        ["json", word] => path(word).map(Part::Json),
        _ => None,
    }
    .ok_or_else(refused)
}

impl Template {
    /// Puts the fields of `value` in.
    pub(super) fn render(&self, value: &Value) -> Result<String, Failure> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field(path) => text.push_str(&plain(find(value, path)?)),
                Part::Json(path) => {
                    let found = find(value, path)?.unwrap_or(&Value::Null);
                    text.push_str(&found.to_string());
                }
            }
        }
        Ok(text)
    }

    /// Puts headers in where there will be fields.
    pub(super) fn headers(&self, fields: &[(&str, &str)]) -> String {
        let header = |path: &[String]| {
            let name = path.last().map_or("", String::as_str);
            let known = fields.iter().find(|(field, _)| *field == name);
            known.map_or_else(|| name.to_uppercase(), |(_, header)| (*header).to_owned())
        };
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Field(path) | Part::Json(path) => header(path),
        });
        parts.collect()
    }

    /// Refuses what names no field of these.
    pub(super) fn check(&self, fields: &[(&str, &str)]) -> Result<(), Failure> {
        for part in &self.parts {
            let (Part::Field(path) | Part::Json(path)) = part else {
                continue;
            };
            let known = |name: &String| fields.iter().any(|(field, _)| field == name);
            match &path[..] {
                [] => {}
                [name] if known(name) => {}
                path => return Err(unknown(path, fields.iter().map(|(field, _)| *field))),
            }
        }
        Ok(())
    }
}

/// Follows a path; `None` for a key of a user's that is not there.
fn find<'a>(value: &'a Value, path: &[String]) -> Result<Option<&'a Value>, Failure> {
    let (mut found, mut above) = (value, "");
    for name in path {
        found = match found.get(name) {
            Some(below) => below,
            None if MAPS.contains(&above) => return Ok(None),
            None => {
                let known = found
                    .as_object()
                    .into_iter()
                    .flat_map(|object| object.keys());
                return Err(unknown(path, known.map(String::as_str)));
            }
        };
        above = name;
    }
    Ok(Some(found))
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None => "<no value>".to_owned(),
        Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn unknown<'a>(path: &[String], known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<String> = known.map(|name| format!(".{name}")).collect();
    let known = match known.as_slice() {
        [] => "nothing is below it".to_owned(),
        known => format!("there are {}", known.join(" ")),
    };
    Failure::new(format_args!(
        "no field `.{}` in --format: {known}",
        path.join(".")
    ))
    .with_code(2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str, value: &Value) -> Result<String, String> {
        let template: Template = template.parse()?;
        template.render(value).map_err(|failure| failure.message)
    }

    #[test]
    fn fields_are_put_in_where_they_are_named() {
        let value = json!({"ID": "x1", "Self": true, "Spec": {"Labels": {"zone": "a"}, "Role": "worker"}, "N": 3});
        for (template, expected) in [
            ("{{.ID}}", "x1"),
            ("{{ .ID }}: {{.Spec.Role}}!", "x1: worker!"),
            (r"{{.ID}}\t{{.Self}}\n{{.N}}", "x1\ttrue\n3"),
            ("{{.Spec.Labels.zone}}", "a"),
            ("{{.Spec.Labels.rack}}", "<no value>"),
            ("{{json .ID}}", "\"x1\""),
            ("{{json .Spec.Labels}}", "{\"zone\":\"a\"}"),
        ] {
            assert_eq!(rendered(template, &value).as_deref(), Ok(expected));
        }
        assert_eq!(rendered("{{json .}}", &json!([1])).as_deref(), Ok("[1]"));
        let error = rendered("{{.Spec.Rolle}}", &value).unwrap_err();
        assert_eq!(
            error,
            "no field `.Spec.Rolle` in --format: there are .Labels .Role"
        );
        let error = rendered("{{.ID.x}}", &value).unwrap_err();
        assert!(error.contains("nothing is below it"), "{error}");
    }

    #[test]
    fn what_is_more_than_fields_is_refused_with_what_there_is_instead() {
        for template in [
            "{{range .}}{{.ID}}{{end}}",
            "{{if .Self}}*{{end}}",
            "{{upper .ID}}",
            "{{.Label \"x\"}}",
            "{{.}}",
            "{{.ID..x}}",
            "{{}}",
        ] {
            let error = template.parse::<Template>().unwrap_err();
            assert!(
                error.contains("not offered") && error.contains("jq"),
                "{error}"
            );
        }
        for template in ["yaml", "table x", "", "tables"] {
            let error = template.parse::<Template>().unwrap_err();
            assert!(error.contains("expected `table`"), "{error}");
        }
        let error = "{{.ID".parse::<Template>().unwrap_err();
        assert!(error.contains("not closed"), "{error}");
    }

    #[test]
    fn only_fields_that_there_are_pass() {
        let fields = [("ID", "NETWORK ID"), ("Name", "NAME")];
        let template: Template = r"table {{.ID}}\t{{.Name}}".parse().unwrap();
        assert!(template.table && template.check(&fields).is_ok());
        assert_eq!(template.headers(&fields), "NETWORK ID\tNAME");
        let template: Template = "{{.Image}}".parse().unwrap();
        let failure = template.check(&fields).unwrap_err();
        let expected = "no field `.Image` in --format: there are .ID .Name";
        assert_eq!((failure.message.as_str(), failure.code), (expected, 2));
    }
}
