//! Patterns of file names as glob(3) has them: `*`, `?` and `[a-z]` within one part of a path.

/// Returns true if a part of a path has to be compared as a pattern.
pub(super) fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?', '['])
}

/// Returns true if a name matches. A dot at the beginning must be written.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Goes back only to the last star: the time is at most the product of both lengths.
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
                continue;
            }
            Some(_) => {
                if let Some(next) = one(&pattern, at, name[seen]) {
                    (at, seen) = (next, seen + 1);
                    continue;
                }
            }
            None => {}
        }
        let Some((star_at, from)) = star else { return false };
        star = Some((star_at, from + 1));
        (at, seen) = (star_at + 1, from + 1);
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Compares one character; returns where the pattern goes on if it fits.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern[at] {
        '?' => Some(at + 1),
        '[' => {
            let is_not = matches!(pattern.get(at + 1), Some('!' | '^'));
            let start = at + 1 + usize::from(is_not);
            // A `]` right at the beginning is a member.
            let end = (start + 1..pattern.len()).find(|index| pattern[*index] == ']');
            let Some(end) = end else { return (c == '[').then_some(at + 1) };
            let (set, mut found, mut index) = (&pattern[start..end], false, 0);
            while index < set.len() {
                if index + 2 < set.len() && set[index + 1] == '-' {
                    found |= (set[index]..=set[index + 2]).contains(&c);
                    index += 3;
                } else {
                    found |= set[index] == c;
                    index += 1;
                }
            }
            (found != is_not).then_some(end + 1)
        }
        '\\' if at + 1 < pattern.len() => (pattern[at + 1] == c).then_some(at + 2),
        plain => (plain == c).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_glob_does() {
        for (pattern, name, right) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", false),
            ("*", "a", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[0-9]*-x", "10-x", true),
            ("[!0-9]*", "10-x", false),
            ("[]a]", "]", true),
            ("[a", "[a", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xbxxa", false),
            ("a\\*", "a*", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), right, "{pattern} {name}");
        }
        assert!(is_pattern("*.conf") && !is_pattern("a.conf"));
        assert!(!matches(&"*a".repeat(300), &"a".repeat(299)));
    }
}
