//! The HTTP probe: sends a GET and checks the answer.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{AGENT, ANSWER_BYTES_MAX, ProbeError, ProbeStage};
use crate::health::expect::Expect;
use crate::upstream::connect::Connector;
use crate::upstream::one_exchange;

/// The request, and the expected answer.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    /// The target in origin form.
    pub target: Uri,
    /// The Host; without one, the endpoint's own.
    pub host: Option<HeaderValue>,
    /// Further fields.
    pub headers: HeaderMap,
    /// The statuses that are good.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// What must be in the first `ANSWER_BYTES_MAX` of the body.
    pub expect: Option<Expect>,
}

impl HttpProbe {
    /// Probes once.
    ///
    /// # Errors
    /// When the answer is not as expected, or not there by `deadline`; the caller stops waiting then.
    pub async fn run(
        &self,
        connector: &Connector,
        deadline: Instant,
        stage: &mut ProbeStage,
    ) -> Result<(), ProbeError> {
        let io = connector.connect(deadline).await?;
        *stage = ProbeStage::Answer;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone().unwrap_or_else(|| connector.authority()));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.extend(self.headers.clone());
        let (response, _connection) = one_exchange::send(io, request).await.map_err(ProbeError::Http)?;
        let status = response.status();
        if !self.is_good(status) {
            return Err(ProbeError::Status(status));
        }
        match &self.expect {
            Some(expect) if !expect.is_met(&beginning(response.into_body()).await?) => Err(ProbeError::Body),
            _ => Ok(()),
        }
    }

    fn is_good(&self, status: StatusCode) -> bool {
        self.statuses.iter().any(|range| range.contains(&status.as_u16()))
    }
}

/// Reads the beginning of the body, as much as is checked.
async fn beginning(mut body: Incoming) -> Result<Vec<u8>, ProbeError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ProbeError::Http)?.into_data() else { continue };
        bytes.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - bytes.len())]);
        if bytes.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}
