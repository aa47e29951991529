//! One pattern, or a list of patterns.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest list: each request of a client with a certificate may be compared with all of it.
const LIST_MAX: usize = 1000;

/// Patterns of which one must match; none is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T> OneOrMore<T> {
    /// Returns true if there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for OneOrMore<T> {
    fn default() -> OneOrMore<T> {
        OneOrMore(vec![])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMore<T>, D::Error> {
        struct TextOrList<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrList<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore<T>, E> {
                T::deserialize(text.into_deserializer()).map(|one| OneOrMore(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore<T>, A::Error> {
                let mut all = vec![];
                while let Some(one) = list.next_element()? {
                    if all.len() == LIST_MAX {
                        return Err(de::Error::custom(format_args!("the list has more than {LIST_MAX} texts")));
                    }
                    all.push(one);
                }
                // What is left out is no condition; a list without anything may have lost what was in it.
                if all.is_empty() {
                    return Err(de::Error::custom("the list is empty: leave the key out for any"));
                }
                Ok(OneOrMore(all))
            }
        }

        deserializer.deserialize_any(TextOrList(PhantomData))
    }
}

impl<T: Serialize> Serialize for OneOrMore<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::HostPattern;
    use super::super::tests::from_yaml;
    use super::*;

    #[test]
    fn one_is_written_as_it_was_and_a_list_has_something() {
        for yaml in ["a.b", "- a.b\n- '*.c'"] {
            let read: OneOrMore<HostPattern> = from_yaml(yaml).unwrap();
            assert_eq!(serde_yaml::to_string(&read).unwrap().trim(), yaml);
        }
        for (yaml, message) in [
            ("[]", "the list is empty: leave the key out for any"),
            ("{}", "invalid type: map, expected a text, or a list of texts"),
            ("[a b]", "`a b` is not a host: a host must not contain ` `"),
        ] {
            assert_eq!(from_yaml::<OneOrMore<HostPattern>>(yaml).unwrap_err(), message);
        }
        let long = format!("[{}]", "a,".repeat(LIST_MAX + 1));
        assert_eq!(from_yaml::<OneOrMore<HostPattern>>(&long).unwrap_err(), "the list has more than 1000 texts");
    }
}
