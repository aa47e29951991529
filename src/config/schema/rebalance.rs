//! Moving sessions to another endpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::admission::Rate;
use crate::config::value::TimeSpan;
use crate::config::value::percent::Share;

/// How sessions move away from endpoints that hold more than their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebalanceConfig {
    /// Sessions moved per second, such as `10/s`: each is closed with code 1012, the quietest first, and its client
    /// comes back to a lighter endpoint. Required.
    pub rate: Rate,

    /// How far above its share an endpoint may stay: `10%` of that share. Default: 10%.
    #[serde(default = "a_tenth")]
    pub tolerance: Share,

    /// How long the endpoints must have stayed the same, and all healthy, before sessions move: an endpoint that
    /// flaps moves nothing. Default: 10s.
    #[serde(default = "ten_seconds")]
    pub settle: TimeSpan,
}

fn a_tenth() -> Share {
    Share::new(10)
}

const fn ten_seconds() -> TimeSpan {
    TimeSpan::from_secs(10)
}

/// What happens to the sessions of an endpoint whose check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDown {
    /// Keeps them.
    #[default]
    Keep,
    /// Closes them.
    Close,
}
