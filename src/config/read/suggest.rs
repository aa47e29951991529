//! "Did you mean": the closest of the words that could stand there.

/// The nearest of `words` as a question, if one is near enough to be meant.
pub(in crate::config) fn did_you_mean<W: AsRef<str>>(written: &str, words: &[W]) -> Option<String> {
    nearest(written, words).map(|word| format!("did you mean `{word}`?"))
}

/// The nearest of `words`, if it takes no more edits than a third of its length.
pub(in crate::config) fn nearest<'w, W: AsRef<str>>(written: &str, words: &'w [W]) -> Option<&'w str> {
    // What is much longer than any word is no typing slip, and distance costs the product of both lengths.
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let written = plain(written);
    let ranked = words.iter().map(AsRef::as_ref).map(|word| (distance(&written, &plain(word)), word));
    let (edits, word) = ranked.min_by_key(|(edits, _)| *edits)?;
    (edits <= word.chars().count().max(3) / 3).then_some(word)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
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
