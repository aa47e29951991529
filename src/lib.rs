//! wsluice: a WebSocket reverse proxy and load balancer that reads frame headers and never copies payload.
//!
//! This page is the map. Modules are declared from the ground up, and each uses only what stands above it.

// Ground: pure. No runtime, sockets or files; time, randomness and keys come as arguments.
pub mod moment;
pub mod ws;

// First floor: machines that know no domain.
pub mod clock;
pub mod worker;
