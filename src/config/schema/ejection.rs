//! Ejection: leaving out endpoints that fail live traffic, and how often requests are retried on others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::percent::Share;
use crate::config::value::{OrOff, TimeSpan};

/// When an endpoint that fails live traffic is left out, and for how long.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionConfig {
    /// How many connections or handshakes in a row must fail. Any HTTP answer counts as an answer, even a 500.
    /// Default: 1, as nginx's `max_fails`: an endpoint ejected by mistake is back soon, and is used meanwhile when no
    /// other is left.
    pub failures: u32,

    /// A session that breaks off without a Close this soon after it opened counts as broken off early; 5 of these
    /// within 10s, and half of all that opened, eject. `off` for servers that hang up like that on purpose. Default:
    /// 1s.
    pub early_end: OrOff<TimeSpan>,

    /// The length of the first ejection; the second in a row is twice as long, the third three times. Afterwards one
    /// session a second tries the endpoint until it answers. Default: 10s, as nginx's `fail_timeout`.
    pub time: TimeSpan,

    /// The longest ejection. Default: 5m, as Envoy has it.
    pub time_max: TimeSpan,

    /// The largest part of an upstream's endpoints that may be ejected at a time; one always may. A further one that
    /// fails is passed over for only a second, so that the rest is not buried under the whole load. Default: 50%.
    pub share_max: Share,
}

impl Default for EjectionConfig {
    fn default() -> EjectionConfig {
        EjectionConfig {
            failures: 1,
            early_end: OrOff::Set(TimeSpan::from_secs(1)),
            time: TimeSpan::from_secs(10),
            time_max: TimeSpan::from_secs(300),
            share_max: Share::new(50),
        }
    }
}

/// How many retries there may be.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetConfig {
    /// Retries as a share of the requests of the last 10s. Default: 20%, as linkerd and Envoy have it.
    pub ratio: Share,

    /// Retries per second beyond that share, so that low traffic gets retries, too. Default: 10.
    pub min_per_second: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> RetryBudgetConfig {
        RetryBudgetConfig { ratio: Share::new(20), min_per_second: 10 }
    }
}
