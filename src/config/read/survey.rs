//! Measures a text before any of it is kept.
//!
//! yaml_serde reads all of a text into memory first, 96 bytes for each comma, and follows aliases and tags as it
//! goes: a small text becomes a large tree. Here the same parser (libyaml, which yaml_serde uses too) gives one event
//! after the other, and only sums are kept: how many values, how deep, how many bytes with each alias followed. A
//! text beyond the limits is refused here, with the position.
//!
//! `locate` finds its positions on the same walk.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

use libyaml_rs as sys;

use crate::config::read::syntax::Unparsed;

/// The most events of the parser. A generous route has about 70, the largest file some 200,000; each takes 96 bytes
/// until the tree is built.
const EVENTS_MAX: usize = 250_000;

/// The most values of a text with its aliases followed. Some 50 bytes each, twice.
const UNFOLDED_VALUES_MAX: u64 = 250_000;

/// The most bytes of keys and values with aliases followed: five times the largest file.
const UNFOLDED_BYTES_MAX: u64 = 5 << 20;

/// The deepest nesting: the parser's own limit, found before it takes time.
const DEPTH_MAX: usize = 127;

/// Whether a value may be repeated by `*name`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::config) enum Aliases {
    /// Up to a limit.
    #[default]
    Allowed,
    /// The text comes from a program or a stranger.
    Refused,
}

/// The size of a node with its aliases followed.
#[derive(Clone, Copy, Default)]
struct UnfoldedSize {
    values: u64,
    bytes: u64,
}

impl UnfoldedSize {
    fn add(&mut self, other: UnfoldedSize) {
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What the texts of one configuration take together.
#[derive(Clone, Copy, Default)]
pub(in crate::config) struct Used {
    events: usize,
    whole: UnfoldedSize,
}

/// A list or a map that is not closed yet.
struct UnfoldingNode {
    anchor: Option<Box<[u8]>>,
    size: UnfoldedSize,
}

/// Refuses a text that would take more memory than any configuration needs, and returns whether it has aliases. Text
/// that is not YAML passes: the parser proper explains it better.
pub(in crate::config) fn survey(text: &str, aliases: Aliases, used: &mut Used) -> Result<bool, Unparsed> {
    let Used { events, whole } = *used;
    let mut survey = Survey { aliases, events, whole, ..Survey::default() };
    let mut refused = None;
    walk(text, |event, at| match survey.take(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err((problem, help)) => {
            refused = Some(Unparsed { problem: problem.to_owned(), help: Some(help.to_owned()), at: Some(at) });
            ControlFlow::Break(())
        }
    });
    *used = Used { events: survey.events, whole: survey.whole };
    refused.map_or(Ok(survey.has_aliases), Err)
}

/// The sums so far.
#[derive(Default)]
struct Survey {
    aliases: Aliases,
    has_aliases: bool,
    events: usize,
    /// Of all there is.
    whole: UnfoldedSize,
    open: Vec<UnfoldingNode>,
    anchors: HashMap<Box<[u8]>, UnfoldedSize>,
}

/// The problem, and the help.
type BoundExceeded = (&'static str, &'static str);

impl Survey {
    fn take(&mut self, event: YamlEvent<'_>) -> Result<(), BoundExceeded> {
        self.events += 1;
        if self.events > EVENTS_MAX {
            return Err(("the file has too many values", "nothing here needs so many: is it the right file?"));
        }
        let (anchor, size) = match event {
            YamlEvent::TagDirective => {
                return Err(("directives (`%TAG`) have no meaning here", "remove the line that begins with `%`"));
            }
            YamlEvent::StartMap { anchor } | YamlEvent::StartList { anchor } => {
                if self.open.len() == DEPTH_MAX {
                    return Err(("the file is nested too deep", "nothing here is nested that deep"));
                }
                let size = UnfoldedSize { values: 1, bytes: 0 };
                self.open.push(UnfoldingNode { anchor: anchor.map(Box::from), size });
                return self.count(size);
            }
            YamlEvent::End => {
                // Its content was counted in the whole as it came.
                let Some(UnfoldingNode { anchor, size }) = self.open.pop() else { return Ok(()) };
                self.close(anchor, size);
                return Ok(());
            }
            YamlEvent::Scalar { anchor, value } => {
                (anchor.map(Box::from), UnfoldedSize { values: 1, bytes: value.len() as u64 })
            }
            YamlEvent::Alias(name) => {
                self.has_aliases = true;
                if self.aliases == Aliases::Refused {
                    let help = "write out what it stands for, or put a value that begins with `*` in quotes";
                    return Err(("aliases (`*name`) are not followed here", help));
                }
                if self.open.iter().any(|open| open.anchor.as_deref() == Some(name)) {
                    let help = "does an alias (`*name`) stand inside its own anchor?";
                    return Err(("the file is nested too deep", help));
                }
                // The parser explains an alias without an anchor.
                (None, self.anchors.get(name).copied().unwrap_or_default())
            }
        };
        self.close(anchor, size);
        self.count(size)
    }

    fn close(&mut self, anchor: Option<Box<[u8]>>, size: UnfoldedSize) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, size);
        }
        if let Some(around) = self.open.last_mut() {
            around.size.add(size);
        }
    }

    fn count(&mut self, size: UnfoldedSize) -> Result<(), BoundExceeded> {
        self.whole.add(size);
        if self.whole.values > UNFOLDED_VALUES_MAX || self.whole.bytes > UNFOLDED_BYTES_MAX {
            return Err(("the file unfolds to too many values", "write out what its aliases (`*name`) repeat"));
        }
        Ok(())
    }
}

/// An event of the parser.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum YamlEvent<'a> {
    /// A document for which `%TAG` says what tags stand for.
    TagDirective,
    /// Of a map.
    StartMap { anchor: Option<&'a [u8]> },
    /// Of a list.
    StartList { anchor: Option<&'a [u8]> },
    /// Of a map or list.
    End,
    /// A key or a value.
    Scalar { anchor: Option<&'a [u8]>, value: &'a [u8] },
    /// `*name`
    Alias(&'a [u8]),
}

/// Calls `visit` with each event of `text` and its position (line and column, from 1), until `visit` stops it, the
/// text ends, or it is not YAML.
#[expect(unsafe_code, reason = "yaml_serde shows events to nobody; libyaml has no other interface")]
pub(in crate::config) fn walk(text: &str, mut visit: impl FnMut(YamlEvent<'_>, (usize, usize)) -> ControlFlow<()>) {
    /// Frees the parser's memory, however this ends.
    struct Parser(Box<MaybeUninit<sys::yaml_parser_t>>);

    impl Drop for Parser {
        fn drop(&mut self) {
            // SAFETY: it was initialised, or zeroed by the attempt, and nothing else uses it.
            unsafe { sys::yaml_parser_delete(self.0.as_mut_ptr()) }
        }
    }

    struct Given(sys::yaml_event_t);

    impl Drop for Given {
        fn drop(&mut self) {
            // SAFETY: the parser has filled it in.
            unsafe { sys::yaml_event_delete(&raw mut self.0) }
        }
    }

    /// # Safety
    /// It is null, or a C string that lives for `'a`.
    unsafe fn name<'a>(anchor: *const u8) -> Option<&'a [u8]> {
        // SAFETY: as promised by the caller.
        (!anchor.is_null()).then(|| unsafe { CStr::from_ptr(anchor.cast()) }.to_bytes())
    }

    // On the heap: the parser points into itself and must not move.
    let mut memory = Box::new(MaybeUninit::<sys::yaml_parser_t>::zeroed());
    // SAFETY: initialising writes all of it and reads nothing.
    if unsafe { sys::yaml_parser_initialize(memory.as_mut_ptr()) }.fail {
        return;
    }
    let mut parser = Parser(memory);
    let pointer = parser.0.as_mut_ptr();
    // SAFETY: it is initialised; `text` lives longer than it, and is UTF-8.
    unsafe {
        sys::yaml_parser_set_encoding(pointer, sys::YAML_UTF8_ENCODING);
        sys::yaml_parser_set_input_string(pointer, text.as_ptr(), text.len() as u64);
    }
    loop {
        let mut memory = MaybeUninit::<sys::yaml_event_t>::zeroed();
        // SAFETY: the parser is initialised and has not failed yet; a failed call leaves nothing in the event to free.
        if unsafe { sys::yaml_parser_parse(pointer, memory.as_mut_ptr()) }.fail {
            return;
        }
        // SAFETY: the call has filled it in.
        let given = Given(unsafe { memory.assume_init() });
        let at = (given.0.start_mark.line as usize + 1, given.0.start_mark.column as usize + 1);
        let data = &given.0.data;
        // SAFETY: `type_` says which part of the union is there; its pointers live as long as `given`.
        let event = unsafe {
            match given.0.type_ {
                sys::YAML_STREAM_END_EVENT => return,
                sys::YAML_DOCUMENT_START_EVENT => {
                    let directives = data.document_start.tag_directives;
                    if directives.start == directives.end {
                        continue;
                    }
                    YamlEvent::TagDirective
                }
                sys::YAML_ALIAS_EVENT => YamlEvent::Alias(name(data.alias.anchor).unwrap_or_default()),
                sys::YAML_SCALAR_EVENT => {
                    let value = std::slice::from_raw_parts(data.scalar.value, data.scalar.length as usize);
                    YamlEvent::Scalar { anchor: name(data.scalar.anchor), value }
                }
                sys::YAML_SEQUENCE_START_EVENT => YamlEvent::StartList { anchor: name(data.sequence_start.anchor) },
                sys::YAML_MAPPING_START_EVENT => YamlEvent::StartMap { anchor: name(data.mapping_start.anchor) },
                sys::YAML_SEQUENCE_END_EVENT | sys::YAML_MAPPING_END_EVENT => YamlEvent::End,
                _ => continue,
            }
        };
        if visit(event, at).is_break() {
            return;
        }
    }
}
