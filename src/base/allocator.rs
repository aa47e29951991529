//! What the process knows of its allocator, which is the program's to choose and not the library's.

use std::sync::OnceLock;

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Says how freed memory is given back to the system. The first one counts.
pub fn gives_back_by(give_back: fn()) {
    let _ = GIVE_BACK.set(give_back);
}

/// Gives memory that was freed back to the system now, if the program has said how. The allocator does so by itself a little
/// later; this is for the moment at which another process needs as much. It takes some ten microseconds and more.
pub fn give_back() {
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}
