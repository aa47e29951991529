//! Command line in, exit code out; and the allocator, which is the process's and not the library's to choose.
//!
//! jemalloc, because connections come in waves: what a wave took is given back to the system when it has gone. Measured
//! with 4,000 sessions (`cargo bench --bench load -- memory`), figures in `benches/README.md`.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A thread of jemalloc's own gives pages back half a second after they were last used, so that an idle process shrinks
/// as well. What a thread keeps for itself is looked through once in a MiB of allocations and not once in 64 KiB, which
/// a connection takes while it opens: that look cost as much as the rest of its allocations. The environment variable
/// `_RJEM_MALLOC_CONF` overrides it.
#[cfg(feature = "jemalloc")]
#[expect(unsafe_code, reason = "jemalloc looks for its settings under this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 88] =
    b"background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0,tcache_gc_incr_bytes:1048576\0";

/// Gives all freed pages of all arenas back.
#[cfg(feature = "jemalloc")]
fn purge() {
    /// All arenas, in jemalloc's own words.
    const PURGE: &std::ffi::CStr = c"arena.4096.purge";
    let nothing = std::ptr::null_mut;
    #[expect(unsafe_code, reason = "jemalloc is asked in C")]
    // SAFETY: the name ends with a zero, and this call neither reads nor writes anything of ours. An error changes nothing.
    let _ = unsafe { tikv_jemalloc_sys::mallctl(PURGE.as_ptr(), nothing(), nothing().cast(), nothing(), 0) };
}

fn main() -> ExitCode {
    #[cfg(feature = "jemalloc")]
    wsluice::base::allocator::gives_back_by(purge);
    wsluice::cli::main()
}
