//! Changes of headers that a route makes.
//!
//! Names, values and the variables in them are parsed here, so that a space in a name is reported at its line and no line
//! break can be smuggled in. `check` decides which names must not be touched, since the proxy itself writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::value::http::FieldName;
use crate::config::value::{BadValue, template};
use crate::header::template::Template;

/// The most headers that a route may set, or remove, in one direction: a message has about a hundred.
const EDITS_MAX: usize = 200;

/// Changes of the headers of one direction: first `remove`, then `set`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEditsConfig {
    /// Headers to set, by name; each replaces whatever was there. Values may have variables, such as `{client.ip}`
    /// (BEHAVIOUR.md lists them); a brace that is one is written `{{`. A header whose value is empty then is left out.
    /// Default: none.
    #[schemars(with = "BTreeMap<String, String>")]
    pub set: HeaderSet<Template>,

    /// Names of headers to remove. Default: none.
    #[serde(deserialize_with = "names", serialize_with = "as_written")]
    #[schemars(with = "Vec<String>")]
    pub remove: Vec<HeaderName>,
}

/// Headers by name, in the order written, each name once; for equality the order does not matter. Values do not print,
/// as they may hold a token. `V` is a [`HeaderValue`], or a [`Template`] where variables may stand.
#[derive(Clone, Debug, Eq)]
pub struct HeaderSet<V = HeaderValue>(Vec<(HeaderName, V)>);

/// A value that is written as the text of a field (RFC 9110 §5.5).
pub trait FieldText: Sized + PartialEq {
    /// Reads it; `value` is what was written, and fits.
    ///
    /// # Errors
    /// If it says something that is not understood.
    fn read(text: &str, value: HeaderValue) -> Result<Self, BadValue>;

    /// Returns it as it is written.
    fn written(&self) -> String;
}

impl FieldText for HeaderValue {
    fn read(_: &str, value: HeaderValue) -> Result<HeaderValue, BadValue> {
        Ok(value)
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

impl FieldText for Template {
    fn read(text: &str, _: HeaderValue) -> Result<Template, BadValue> {
        template::read(text)
    }

    fn written(&self) -> String {
        self.to_string()
    }
}

impl<V> Default for HeaderSet<V> {
    fn default() -> HeaderSet<V> {
        HeaderSet(vec![])
    }
}

impl<V: PartialEq> PartialEq for HeaderSet<V> {
    fn eq(&self, other: &HeaderSet<V>) -> bool {
        // Each name stands once on either side.
        self.0.len() == other.0.len() && self.0.iter().all(|header| other.0.contains(header))
    }
}

impl<V> HeaderSet<V> {
    /// Returns names and values.
    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, V)> {
        self.0.iter()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct EditedName(HeaderName);
struct EditedValue<V>(V);

impl<'de> Deserialize<'de> for EditedName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?.parse::<FieldName>();
        name.map(|name| EditedName(name.0)).map_err(BadValue::into_serde)
    }
}

impl<'de, V: FieldText> Deserialize<'de> for EditedValue<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        // RFC 9110 §5.5: no CR, LF, NUL or other controls; and no space at the ends, which a parser would drop.
        let fits = text.trim_matches([' ', '\t']) == text;
        match text.parse::<HeaderValue>() {
            Ok(mut value) if fits => {
                value.set_sensitive(true);
                V::read(&text, value).map(EditedValue).map_err(BadValue::into_serde)
            }
            _ => {
                let help = "write one line without control characters or space around it";
                Err(BadValue::new("this cannot be the value of a header", help).into_serde())
            }
        }
    }
}

impl<'de, V: FieldText> Deserialize<'de> for HeaderSet<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SetVisitor<V>(PhantomData<V>);

        impl<'de, V: FieldText> Visitor<'de> for SetVisitor<V> {
            type Value = HeaderSet<V>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a map of headers such as `{ X-Tenant: acme }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderSet<V>, A::Error> {
                let mut set: Vec<(HeaderName, V)> = Vec::new();
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

        from.deserialize_map(SetVisitor(PhantomData))
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
impl<V: FieldText> Serialize for HeaderSet<V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let sorted: BTreeMap<&str, String> =
            self.0.iter().map(|(name, value)| (name.as_str(), value.written())).collect();
        to.collect_map(sorted)
    }
}
