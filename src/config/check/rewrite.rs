//! Checks rewrites: which keys stand together, and paths that are none.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::route::{RewriteConfig, RouteConfig};
use crate::route::pattern::{PathPattern, PlainPath};

impl Checker<'_, '_> {
    pub(super) fn rewrite(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let strip_path = route_path.key("rewrite").key("strip_prefix");
        let add_path = route_path.key("rewrite").key("add_prefix");
        self.one_rewrite(&route_path.key("rewrite"), &route.rewrite);
        if let Some(written) = &route.rewrite.path {
            self.rewritten_path(&route_path.key("rewrite").key("path"), written);
        }
        for (path, prefix) in [(&strip_path, &route.rewrite.strip_prefix), (&add_path, &route.rewrite.add_prefix)] {
            let Some(prefix) = prefix else { continue };
            match prefix.as_str() {
                "/" => drop(self.error(path, "`/` changes nothing").help("remove the key")),
                _ => self.rewritten_path(path, prefix),
            }
        }
        let Some(strip) = route.rewrite.strip_prefix.as_deref().filter(|strip| strip.len() > 1) else { return };
        let strip = strip.trim_end_matches('/');
        let below =
            |path: &str, top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let never = match &route.matches.path {
            Some(PathPattern::Exact(path)) => !below(path.as_str(), strip),
            Some(PathPattern::Prefix(path)) => {
                let path = path.as_str().trim_end_matches('/');
                !below(path, strip) && !below(strip, path)
            }
            Some(PathPattern::Regex(_)) | None => false,
        };
        if never && self.written.has_own(&strip_path) {
            let matches = self.written.original(&route_path.key("match").key("path"));
            let named = self.written.name_of(&matches, &matches);
            let message = "no path that this route matches begins with this";
            self.warn(&strip_path, message).help(format!("compare it with {named}")).involving(matches);
        }
    }

    /// A path is changed in one of three ways.
    fn one_rewrite(&mut self, path: &KeyPath, rewrite: &RewriteConfig) {
        let RewriteConfig { strip_prefix, add_prefix, path: whole, regex, with } = rewrite;
        let alone = match (whole, regex) {
            (Some(_), _) => "path",
            (None, Some(_)) => "regex",
            (None, None) => "",
        };
        let others = [
            ("strip_prefix", strip_prefix.is_some()),
            ("add_prefix", add_prefix.is_some()),
            ("regex", alone == "path" && regex.is_some()),
            ("with", alone == "path" && with.is_some()),
        ];
        for (key, _) in others.iter().filter(|(_, is_there)| *is_there && !alone.is_empty()) {
            let involved = self.written.original(&path.key(alone));
            let message = format!("`{key}` has no effect beside `{alone}`, which says what the whole path becomes");
            self.error(&path.key(key), message).at_key().help("keep one of the two").involving(involved);
        }
        match (regex, with) {
            (Some(_), None) if alone == "regex" => {
                let message = "`with` is missing: what does the path become?";
                let help = "write `{ regex: \"^/a/(.*)$\", with: \"/b/$1\" }`";
                self.error(&path.key("regex"), message).at_key().help(help).involving(path.key("with"));
            }
            (None, Some(with)) if alone.is_empty() => {
                let shown = self.written.show(&path.key("with"), with);
                let help = format!("write `{{ path: {shown} }}` for one path, or add `regex:`");
                let message = "`with` has no effect without `regex`";
                self.error(&path.key("with"), message).at_key().help(help).involving(path.key("regex"));
            }
            _ => {}
        }
    }

    fn rewritten_path(&mut self, path: &KeyPath, written: &str) {
        let shown = self.written.show(path, &written);
        if !written.starts_with('/') {
            let help = format!("write `/{shown}`");
            self.error(path, format!("`{shown}` does not start with `/`")).help(help);
        } else if written.parse::<PlainPath>().is_err() {
            let help = "write a path without query, `..`, and escapes that are not needed";
            self.error(path, format!("`{shown}` is not a path in normal form")).help(help);
        }
    }

    /// Checks what a regex and its replacement say together, once the regex is compiled.
    pub(super) fn rewrite_regex(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let RewriteConfig { regex: Some(regex), with: Some(with), .. } = &*route.rewrite else { return };
        if self.room.is_none() {
            return;
        }
        let path = route_path.key("rewrite");
        if let Some(group) = with.missing_group(regex) {
            let last = regex.groups().len().saturating_sub(1);
            let help = match last {
                0 => "put `( )` around the part that stays".to_owned(),
                1 => "its only group is `$1`".to_owned(),
                last => format!("its groups are `$1` to `${last}`"),
            };
            let involved = self.written.original(&path.key("regex"));
            self.error(&path.key("with"), format!("the regex has no group `{group}`")).help(help).involving(involved);
        }
        if let Some(PathPattern::Exact(exact)) = &route.matches.path
            && !regex.matches(exact.as_str())
            && self.written.has_own(&path.key("regex"))
        {
            let matches = self.written.original(&route_path.key("match").key("path"));
            let named = self.written.name_of(&matches, &matches);
            let message = "no path that this route matches is matched by this";
            self.warn(&path.key("regex"), message).help(format!("compare it with {named}")).involving(matches);
        }
    }
}
