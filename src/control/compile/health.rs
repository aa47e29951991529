//! Compiles health checks, ejection and retry budgets.

use crate::config::{EjectionConfig, Expectation, HealthCheck, HttpCheck, RetryBudgetConfig, WebSocketCheck};
use crate::health::expect::Expect;
use crate::health::{outlier, threshold};
use crate::policy::retry_budget;
use crate::probe::http::HttpProbe;
use crate::probe::websocket::WebSocket;
use crate::probe::{Check, Probe};

/// Compiles the health check of an upstream.
pub fn check(written: &HealthCheck) -> Check {
    let pace = written.schedule();
    let probe = match written {
        HealthCheck::Tcp(_) => Probe::Tcp,
        HealthCheck::Http(written) => Probe::Http(http(written)),
        HealthCheck::Websocket(written) => Probe::WebSocket(websocket(written)),
    };
    Check {
        probe,
        every: pace.every.duration(),
        timeout: pace.timeout.duration(),
        rule: threshold::HealthThresholds { rise: pace.rise, fall: pace.fall },
    }
}

fn http(written: &HttpCheck) -> HttpProbe {
    HttpProbe {
        target: written.path.0.clone().into(),
        host: written.host.as_ref().map(|host| host.value()),
        headers: written.headers.iter().cloned().collect(),
        statuses: written.status.ranges().to_vec(),
        expect: written.body.as_ref().map(expect),
    }
}

fn websocket(written: &WebSocketCheck) -> WebSocket {
    WebSocket {
        target: written.path.to_string(),
        host: written.host.as_ref().map(ToString::to_string),
        headers: written.headers.iter().cloned().collect(),
        subprotocol: written.subprotocol.as_ref().map(ToString::to_string),
        send: written.send.clone(),
        expect: written.expect.as_ref().map(expect),
    }
}

fn expect(written: &Expectation) -> Expect {
    match written {
        Expectation::Contains(text) => Expect::Contains(text.clone()),
        // A pattern that is too large has been refused before.
        Expectation::Matches(pattern) => {
            pattern.regex().map_or_else(|| Expect::Contains(pattern.to_string()), Expect::Matches)
        }
    }
}

/// Compiles the rule of ejection.
pub fn ejection(written: &EjectionConfig) -> outlier::EjectionRule {
    outlier::EjectionRule {
        failures: written.failures,
        early_end: written.early_end.duration(),
        span: written.time.duration(),
        span_max: written.time_max.duration(),
        percent_max: written.share_max.percent(),
    }
}

/// Compiles the retry budget.
pub fn retry_budget(written: &RetryBudgetConfig) -> retry_budget::RetryBudgetRule {
    retry_budget::RetryBudgetRule { percent: written.ratio.percent(), min_per_second: written.min_per_second }
}
