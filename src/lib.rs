//! wsluice: a WebSocket reverse proxy and load balancer that reads frame headers and leaves the payload of messages untouched.
//!
//! This page is the map. Modules are declared from the ground up, and each uses only what stands above it.

// The order below is the map, not the alphabet: rustfmt sorts only within a block.

// Below all.
pub mod base;

// Ground: pure. No runtime, sockets or files; time, randomness and keys come as arguments.
pub mod ws;

pub mod header;

pub mod route;

pub mod balance;

pub mod policy;

pub mod health;

// First floor: machines that know no domain.
pub mod config;

pub mod telemetry;

pub mod net;

pub mod tls;

pub mod http2;

// Second floor: the upstream side.
pub mod upstream;

pub mod discovery;
pub mod probe;

pub mod auth;
pub mod shared;

// Third floor: the data plane.
pub mod session;

pub mod proxy;

// Top: the process.
pub mod server;

pub mod handover;

pub mod control;

pub mod admin;

pub mod demo;

pub mod ping;

pub mod explain;

pub mod import;

pub mod app;

pub mod cli;

#[cfg(test)]
mod tests;
