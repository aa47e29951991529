//! Every file in `config/` is valid, causes no warning, and is accepted by the schema for editors.

use serde_json::Value;

use crate::config::*;

fn examples() -> Vec<(String, String)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn every_example_loads_without_error_or_warning() {
    let examples = examples();
    assert!(examples.len() >= 6);
    for (name, text) in examples {
        let env = |name: &str| {
            ["STICKY_SECRET", "ADMIN_TOKEN", "JWT_SECRET"].contains(&name).then(|| "0123456789abcdef".repeat(4))
        };
        match load_as(std::path::Path::new(&name), &text, &env) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]),
            Err(errors) => panic!("{errors}"),
        }
    }
}

#[test]
fn the_schema_accepts_every_example_and_refuses_what_is_wrong() {
    let schema = schema();
    for (name, text) in examples() {
        // As an editor does.
        let mut value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        value.apply_merge().unwrap();
        let value: Value = serde_yaml::from_value(value).unwrap();
        assert_eq!(accepts(&schema, &schema, &value), Ok(()), "{name}");
    }
    for wrong in [
        "{ routes: [], upstreams: {}, orgins: 1 }",
        "{ routes: [{ name: a, upstream: a, timeouts: { idle: 5min } }], upstreams: {} }",
        "{ routes: [{ name: a, upstream: a, http: maybe }], upstreams: {} }",
        "{ routes: [], upstreams: {}, admin: null }",
        "{ routes: [], upstreams: {}, version: x }",
        "{ routes: [], upstreams: { a: { endpoints: [{ url: 'ws://a', wieght: 1 }] } } }",
    ] {
        let value: Value = serde_yaml::from_str(wrong).unwrap();
        assert!(accepts(&schema, &schema, &value).is_err(), "{wrong}");
    }
}

#[test]
fn the_defaults_in_the_schema_are_right() {
    fn check(root: &Value, schema: &Value, seen: &mut usize) {
        if let Some(default) = schema.get("default") {
            assert_eq!(accepts(root, schema, default), Ok(()), "{default}");
            *seen += 1;
        }
        match schema {
            Value::Array(values) => values.iter().for_each(|schema| check(root, schema, seen)),
            Value::Object(entries) => entries.values().for_each(|schema| check(root, schema, seen)),
            _ => {}
        }
    }
    let (schema, mut seen) = (schema(), 0);
    check(&schema, &schema, &mut seen);
    assert!(seen > 50, "{seen}");
}

#[test]
fn the_schema_explains_every_key() {
    let schema = schema();
    assert_eq!(schema["title"], "wsluice configuration");
    let types = schema["definitions"].as_object().unwrap();
    for (name, section) in types.iter().chain([(&"File".to_owned(), &schema)]) {
        for (key, property) in section["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key} has no description");
        }
    }
}

/// Validates with as much of JSON Schema as ours uses.
fn accepts(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(rules) = schema.as_object() else {
        return if schema == &Value::Bool(true) { Ok(()) } else { Err(format!("{value} is not allowed")) };
    };
    for (rule, want) in rules {
        let holds = match rule.as_str() {
            "$ref" => {
                let pointer = want.as_str().unwrap().strip_prefix('#').unwrap();
                return accepts(root, root.pointer(pointer).unwrap(), value);
            }
            "type" => match want {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "const" => want == value,
            "enum" => want.as_array().unwrap().contains(value),
            "pattern" => {
                value.as_str().is_none_or(|text| regex::Regex::new(want.as_str().unwrap()).unwrap().is_match(text))
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= want.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= want.as_f64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= want.as_u64().unwrap()),
            "allOf" => want.as_array().unwrap().iter().all(|choice| accepts(root, choice, value).is_ok()),
            "anyOf" => want.as_array().unwrap().iter().any(|choice| accepts(root, choice, value).is_ok()),
            "oneOf" => {
                want.as_array().unwrap().iter().filter(|choice| accepts(root, choice, value).is_ok()).count() == 1
            }
            "required" => {
                value.is_object()
                    && want.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    accepts(root, want, item)?;
                }
                true
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    accepts(root, member(rules, key), value).map_err(|error| format!("{key}: {error}"))?;
                }
                true
            }
            "additionalProperties" if !rules.contains_key("properties") => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    accepts(root, member(rules, key), value).map_err(|error| format!("{key}: {error}"))?;
                }
                true
            }
            "additionalProperties"
            | "patternProperties"
            | "$schema"
            | "title"
            | "description"
            | "default"
            | "examples"
            | "format"
            | "definitions" => true,
            other => panic!("the schema uses `{other}`, which this test does not know"),
        };
        if !holds {
            return Err(format!("{value} breaks {rule} {want}"));
        }
    }
    Ok(())
}

/// The schema of one member of an object.
fn member<'s>(rules: &'s serde_json::Map<String, Value>, key: &str) -> &'s Value {
    let pattern = |(pattern, schema)| regex::Regex::new(pattern).unwrap().is_match(key).then_some(schema);
    let patterns = rules.get("patternProperties").and_then(Value::as_object);
    let named = rules.get("properties").and_then(|properties| properties.get(key));
    let matched = patterns.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema)).find_map(pattern);
    named.or(matched).or(rules.get("additionalProperties")).unwrap_or(&Value::Bool(true))
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type `{other}`"),
    }
}
