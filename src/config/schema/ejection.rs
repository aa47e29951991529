//! Endpoints that live traffic finds broken: how they are left out, and how often requests try another one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::percent::Share;
use crate::config::value::{OrOff, TimeSpan};

/// Leaving out an endpoint that fails live traffic.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionConfig {
    /// Connections or handshakes in a row that must fail. An HTTP answer, also one with 500, is an answer. Default: 1, as
    /// nginx's `max_fails`: who was ejected in error is back soon, and until then is used when nobody else is left.
    pub failures: u32,

    /// A session that breaks off without a Close this soon after it opened counts as broken off early; 5 of them within
    /// 10s, and half of all that opened, eject. `off` for servers that hang up like that on purpose. Default: 1s.
    pub early_end: OrOff<TimeSpan>,

    /// How long the first ejection is; the second in a row is twice as long, the third three times. Afterwards one session
    /// a second tries the endpoint until it answers. Default: 10s, as nginx's `fail_timeout`.
    pub time: TimeSpan,

    /// The longest ejection. Default: 5m, as Envoy has it.
    pub time_max: TimeSpan,

    /// How many of an upstream's endpoints may be ejected at a time; one always may. A further one that fails is passed over
    /// for a second only, so that the rest is not buried under the load of all. Default: 50%.
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

/// How many second attempts there are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetConfig {
    /// How many there may be for the requests of the last 10s. Default: 20%, as linkerd and Envoy have it.
    pub ratio: Share,

    /// How many a second there may be besides, so that few requests have a second try, too. Default: 10.
    pub min_per_second: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> RetryBudgetConfig {
        RetryBudgetConfig { ratio: Share::new(20), min_per_second: 10 }
    }
}
