//! `--filter key=value`: which of the things are listed.
//!
//! Values of one key are alternatives, different keys must all fit; of labels all must be there.

use std::{collections::BTreeMap, str::FromStr};

use super::Failure;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    key: String,
    value: String,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = parsed.ok_or_else(|| format!("expected KEY=VALUE, found `{text}`"))?;
        Ok(Self {
            key: key.trim().to_lowercase(),
            value: value.trim().to_owned(),
        })
    }
}

/// All conditions of one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filters<'a>(&'a [Filter]);

impl<'a> Filters<'a> {
    /// Refuses keys that a command does not know.
    pub(super) fn new(filters: &'a [Filter], known: &[&str]) -> Result<Self, Failure> {
        let stranger = filters
            .iter()
            .find(|filter| !known.contains(&filter.key.as_str()));
        match stranger {
            None => Ok(Self(filters)),
            Some(Filter { key, .. }) => Err(Failure::new(format_args!(
                "no filter `{key}` here: there are {}",
                known.join(", ")
            ))
            .with_code(2)),
        }
    }

    /// Whether one of the values of a key fits; if there is none, everything does.
    pub(super) fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        let mut values = self.values(key).peekable();
        values.peek().is_none() || values.any(fits)
    }

    /// Whether a text begins with one of the values of a key.
    pub(super) fn begins(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| text.starts_with(value))
    }

    /// Whether a text is one of the values of a key, capitals or not.
    pub(super) fn is(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| text.eq_ignore_ascii_case(value))
    }

    /// Whether all labels that a key asks for are there: `label=zone` or `label=zone=a`.
    pub(super) fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((label, value)) => labels.get(label).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Refuses values of a key that are none of these.
    pub(super) fn one_of(&self, key: &str, words: &[&str]) -> Result<(), Failure> {
        let knows = |value: &&str| words.iter().any(|word| word.eq_ignore_ascii_case(value));
        match self.values(key).find(|value| !knows(value)) {
            None => Ok(()),
            Some(value) => Err(Failure::new(format_args!(
                "expected {key}= with one of {}, found `{value}`",
                words.join(", ")
            ))
            .with_code(2)),
        }
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let filters = self.0.iter().filter(move |filter| filter.key == key);
        filters
            .map(|filter| filter.value.as_str())
            .collect::<Vec<_>>()
            .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn values_of_a_key_are_alternatives_and_labels_must_all_be_there() {
        let all = filters(&["id=ab", "ID=c", "label=zone=a", "label=rack"]);
        let all = Filters::new(&all, &["id", "label"]).unwrap();
        let begins = ["abx", "c", "xab"].map(|text| all.begins("id", text));
        assert_eq!(begins, [true, true, false]);
        assert!(all.begins("name", "whatever is not asked for"));
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()));
            all.labels("label", &pairs.collect())
        };
        assert!(labels(&[("zone", "a"), ("rack", "")]));
        assert!(!labels(&[("zone", "b"), ("rack", "")]));
        assert!(!labels(&[("zone", "a")]));
    }

    #[test]
    fn strangers_are_refused_with_those_that_are_known() {
        let all = filters(&["driver=overlay"]);
        let failure = Filters::new(&all, &["id", "name"]).unwrap_err();
        let expected = "no filter `driver` here: there are id, name";
        assert_eq!((failure.message.as_str(), failure.code), (expected, 2));
        let all = filters(&["role=king"]);
        let all = Filters::new(&all, &["role"]).unwrap();
        let failure = all.one_of("role", &["manager", "worker"]).unwrap_err();
        assert!(failure.message.contains("manager, worker"), "{failure}");
        assert!("=x".parse::<Filter>().is_err() && "x".parse::<Filter>().is_err());
    }
}
