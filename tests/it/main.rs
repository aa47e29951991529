//! The proxy as a whole, in this process, between peers that speak for themselves: raw sockets, which say and see every
//! byte, and tokio-tungstenite, which nobody here wrote. Each module tells one story; `harness` has the peers.
//!
//! Nothing here waits for time to pass: a test waits for an event, and a deadline only turns a hang into a failure.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod harness;
mod plain;
mod process;

mod admin;
mod api;
mod back_pressure;
mod balance;
mod cli;
mod close;
mod counts;
mod discovery;
mod drain;
mod drains;
mod early_data;
mod entry;
mod examples;
mod failover;
mod frames;
mod half_close;
mod handover;
mod handshake;
mod health;
mod hostile_tls;
mod http;
mod keepalive;
mod limits;
mod listeners;
mod logs;
mod loops;
mod map;
mod names;
mod origins;
mod proxy_protocol;
mod reload;
mod routes;
mod scarce;
mod series;
mod eviction;
mod smuggling;
mod sources;
mod stalls;
mod tls;
mod under_traffic;
mod upgrade;
mod vanish;
