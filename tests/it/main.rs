//! Tests of the whole proxy in this process, between independent peers: raw sockets, which send and check every byte, and
//! tokio-tungstenite. Each module tests one topic; `harness` has the peers.
//!
//! No test waits for time to pass: it waits for an event, and a deadline only turns a hang into a failure.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod harness;
mod plain;
mod process;

mod actions;
mod addresses;
mod admin;
mod api;
mod apps;
mod auth;
mod back_pressure;
mod balance;
mod cli;
mod client_certificates;
mod close;
mod counts;
mod discovery;
mod drain;
mod drains;
mod early_data;
mod entry;
mod error_pages;
mod eviction;
mod forward_auth;
mod examples;
mod explain;
mod failover;
mod frames;
mod half_close;
mod handover;
mod handshake;
mod headers;
mod health;
mod hostile_tls;
mod http;
mod http2;
mod import;
mod include;
mod http_compression;
mod keepalive;
mod limits;
mod listeners;
mod logs;
mod loops;
mod map;
mod moving;
mod names;
mod origins;
mod passwords;
mod per_client;
mod ping;
mod proxy_protocol;
mod rates;
mod reload;
mod rewrites;
mod routes;
mod scarce;
mod series;
#[cfg(feature = "redis")]
mod shared;
mod smuggling;
mod sources;
mod stalls;
mod tls;
mod under_traffic;
mod upgrade;
mod vanish;
mod variables;
