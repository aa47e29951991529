//! The keys of the configuration: one module for each section or idea, with every default and its reason.

pub(super) mod action;
pub(super) mod addresses;
pub(super) mod admin;
pub(super) mod admission;
pub(super) mod auth;
pub(super) mod basic_auth;
pub(super) mod client_tls;
pub(super) mod composition;
pub(super) mod discover;
pub(super) mod ejection;
pub(super) mod endpoint;
pub(super) mod forward_auth;
pub(super) mod health;
pub(super) mod http_compression;
pub(super) mod listener;
pub(super) mod on_change;
pub(super) mod per_client;
pub(super) mod process;
pub(super) mod rate;
pub(super) mod rebalance;
pub(super) mod route;
pub(super) mod shared;
pub(super) mod sticky;
pub(super) mod tcp;
pub(super) mod upstream;
pub(super) mod upstream_lost;
