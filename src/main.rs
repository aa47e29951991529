//! Command line in, exit code out; and the allocator, which is the process's and not the library's to choose.
//!
//! jemalloc, because connections come in waves: what a wave took is given back to the system when it has gone. Measured
//! with 4,000 sessions (`cargo bench --bench load -- memory`), figures in `benches/README.md`.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A thread of jemalloc's own gives pages back half a second after they were last used, so that an idle process shrinks
/// as well. The environment variable `_RJEM_MALLOC_CONF` overrides it.
#[cfg(feature = "jemalloc")]
#[expect(unsafe_code, reason = "jemalloc looks for its settings under this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 59] = b"background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    wsluice::cli::main()
}
