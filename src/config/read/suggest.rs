//! "Did you mean": the nearest of the words that are allowed.

/// The most names listed where none is near.
const NAMES_SHOWN_MAX: usize = 20;

/// Returns the nearest of `words` as a question, if one is near enough.
pub fn did_you_mean<W: AsRef<str>>(written: &str, words: &[W]) -> Option<String> {
    nearest(written, words).map(|word| format!("did you mean `{word}`?"))
}

/// Returns the nearest of `names` as a question, or else a list of the first; `count` is how many there are in all.
pub fn nearest_or_list<N: AsRef<str>>(written: &str, names: &[N], count: usize) -> String {
    did_you_mean(written, names).unwrap_or_else(|| list(names, count))
}

/// Lists the first of `names`, and says how many more there are of `count`.
pub(in crate::config) fn list<N: AsRef<str>>(names: &[N], count: usize) -> String {
    let shown = names.iter().map(|name| format!("`{}`", name.as_ref())).take(NAMES_SHOWN_MAX);
    let more = count.saturating_sub(NAMES_SHOWN_MAX);
    let more = (more > 0).then(|| format!("{more} more"));
    format!("there are {}", shown.chain(more).collect::<Vec<_>>().join(", "))
}

/// Returns the nearest of `words`, if it takes at most a third of its length in edits: insertions, deletions,
/// replacements and swaps of neighbours.
pub(in crate::config) fn nearest<'w, W: AsRef<str>>(written: &str, words: &'w [W]) -> Option<&'w str> {
    // A text much longer than any word is not a typing slip, and the distance costs the product of both lengths.
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let written = plain(written);
    let ranked = words.iter().map(AsRef::as_ref).map(|word| (strsim::osa_distance(&written, &plain(word)), word));
    let (edits, word) = ranked.min_by_key(|(edits, _)| *edits)?;
    (edits <= word.chars().count().max(3) / 3).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_recognised_and_other_words_are_not() {
        let words = ["origins", "upstream", "http", "round_robin"];
        for (written, word) in [
            ("orgins", Some("origins")),
            ("orgiins", Some("origins")),
            ("Upstream", Some("upstream")),
            ("upstreams", Some("upstream")),
            ("htpt", Some("http")),
            ("round-robin", Some("round_robin")),
            ("h", None),
            ("certificates", None),
        ] {
            assert_eq!(nearest(written, &words), word, "{written}");
        }
        assert_eq!(nearest("x", &[] as &[&str]), None);
    }
}
