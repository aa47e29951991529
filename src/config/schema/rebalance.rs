//! When sessions leave their endpoint for another one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::admission::Rate;
use crate::config::value::TimeSpan;
use crate::config::value::percent::Share;

/// Moving sessions away from endpoints that hold more than their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebalanceConfig {
    /// Sessions moved in a second, such as `10/s`: each is closed with the code 1012, the quietest first, and its client
    /// comes back to a lighter endpoint. Required.
    pub rate: Rate,

    /// How much more than its share an endpoint may hold: `10%` of that. Default: 10%.
    #[serde(default = "a_tenth")]
    pub tolerance: Share,

    /// How long the endpoints must have been the same, and all of them well, before sessions are moved: one that bounces
    /// moves nothing. Default: 10s.
    #[serde(default = "ten_seconds")]
    pub settle: TimeSpan,
}

fn a_tenth() -> Share {
    Share::new(10)
}

const fn ten_seconds() -> TimeSpan {
    TimeSpan::from_secs(10)
}

/// What becomes of the sessions of an endpoint whose check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDown {
    /// They go on.
    #[default]
    Keep,
    /// They are closed.
    Close,
}
