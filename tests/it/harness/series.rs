//! Reads metrics as Prometheus gets them.

/// Returns the value of the series with this name and all of its labels in any order; `None` if there is none.
pub fn series(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    wanted.sort();
    text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, found_labels) = match series.split_once('{') {
            Some((found, labels)) => (found, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        // No label value in the tests has a comma or a quote.
        let mut found_labels: Vec<&str> = found_labels.split(',').filter(|label| !label.is_empty()).collect();
        found_labels.sort_unstable();
        (found == name && found_labels == wanted).then(|| value.parse().unwrap())
    })
}

/// Returns the value of a series that must exist.
#[track_caller]
pub fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    series(text, name, labels).unwrap_or_else(|| panic!("no {name}{labels:?} in\n{text}"))
}
