//! Changes of headers that a route makes.
//!
//! Names and values are parsed here, so that a space in a name is reported at its line and no line break can be
//! smuggled in. `check` decides which names must not be touched, since the proxy itself writes them.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::value::BadValue;

/// The most headers that a route may set, or remove, in one direction: a message has about a hundred.
const EDITS_MAX: usize = 200;

/// Changes of the headers of one direction: first `remove`, then `set`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEditsConfig {
    /// Headers to set, by name; each replaces whatever was there. Default: none.
    #[schemars(with = "BTreeMap<String, String>")]
    pub set: HeaderSet,

    /// Names of headers to remove. Default: none.
    #[serde(deserialize_with = "names", serialize_with = "as_written")]
    #[schemars(with = "Vec<String>")]
    pub remove: Vec<HeaderName>,
}

/// Headers by name, in the order written, each name once; for equality the order does not matter. Values print as
/// `Sensitive`, as they may hold a token.
#[derive(Clone, Debug, Default, Eq)]
pub struct HeaderSet(Vec<(HeaderName, HeaderValue)>);

impl PartialEq for HeaderSet {
    fn eq(&self, other: &HeaderSet) -> bool {
        // Each name stands once on either side.
        self.0.len() == other.0.len() && self.0.iter().all(|header| other.0.contains(header))
    }
}

impl HeaderSet {
    /// Returns names and values.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct EditedName(HeaderName);
struct EditedValue(HeaderValue);

impl<'de> Deserialize<'de> for EditedName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(EditedName).map_err(|_| {
            let help = "write a name of letters, digits and `-`, such as `X-Tenant`, without a colon";
            BadValue::new(format!("`{text}` is not the name of a header"), help).into_serde()
        })
    }
}

impl<'de> Deserialize<'de> for EditedValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        // RFC 9110 §5.5: no CR, LF, NUL or other controls; and no space at the ends, which a parser would drop.
        let fits = text.trim_matches([' ', '\t']) == text;
        match text.parse::<HeaderValue>() {
            Ok(mut value) if fits => {
                value.set_sensitive(true);
                Ok(EditedValue(value))
            }
            _ => {
                let help = "write one line without control characters or space around it";
                Err(BadValue::new("this cannot be the value of a header", help).into_serde())
            }
        }
    }
}

impl<'de> Deserialize<'de> for HeaderSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SetVisitor;

        impl<'de> Visitor<'de> for SetVisitor {
            type Value = HeaderSet;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a map of headers such as `{ X-Tenant: acme }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderSet, A::Error> {
                let mut set: Vec<(HeaderName, HeaderValue)> = Vec::new();
                while let Some(EditedName(name)) = map.next_key()? {
                    let EditedValue(value) = map.next_value()?;
                    if set.iter().any(|(other, _)| *other == name) {
                        let problem = format!("the header `{name}` is set twice");
                        let help = "keep one; upper and lower case do not matter in the name of a header";
                        return Err(de::Error::custom(format_args!("{problem}\n{help}")));
                    }
                    if set.len() == EDITS_MAX {
                        return Err(too_many());
                    }
                    set.push((name, value));
                }
                Ok(HeaderSet(set))
            }
        }

        from.deserialize_map(SetVisitor)
    }
}

fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<EditedName>::deserialize(from)?;
    if names.len() > EDITS_MAX {
        return Err(too_many());
    }
    Ok(names.into_iter().map(|name| name.0).collect())
}

fn too_many<E: de::Error>() -> E {
    E::custom(format_args!("there are more than {EDITS_MAX} headers\nkeep those that are needed"))
}

fn as_written<S: Serializer>(names: &[HeaderName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(names.iter().map(HeaderName::as_str))
}

/// Writes the values too, in the order of the names; `shown` masks values that may be credentials.
impl Serialize for HeaderSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let sorted: BTreeMap<&str, String> = self.0.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
        to.collect_map(sorted)
    }
}
