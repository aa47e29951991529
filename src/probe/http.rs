//! The HTTP probe: sends a GET and checks the answer.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use tokio::time::Instant;

use super::{AGENT, ANSWER_BYTES_MAX, ProbeError, ProbeStage};
use crate::health::expect::Expect;
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::connect::Connector;
use crate::upstream::one_exchange;
use crate::upstream::opener::{self, Alone};
use crate::upstream::streams::connection::{BeginError, Connection};
use crate::upstream::streams::exchange;

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
        let connected = opener::connect_alone(connector, deadline).await?;
        *stage = ProbeStage::Answer;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone().unwrap_or_else(|| connector.authority()));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.extend(self.headers.clone());
        let (response, _connection) = match connected {
            Alone::Http1(io) => {
                let sent = one_exchange::send(io, request).await;
                let (response, connection) = sent.map_err(|error| ProbeError::Http(error.into()))?;
                (response.map(AnswerBody::Http1), Some(connection))
            }
            Alone::Http2(connection) => {
                (by_stream(&connection, connector, request).await.map_err(ProbeError::Http)?, None)
            }
        };
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

/// Asks on the only stream of a connection.
async fn by_stream(
    connection: &Connection,
    connector: &Connector,
    request: Request<Empty<Bytes>>,
) -> Result<Response<AnswerBody>, Box<dyn std::error::Error + Send + Sync>> {
    let place = connection.place().ok_or(BeginError::Ended)?;
    let (parts, body) = request.into_parts();
    let head = exchange::head(parts, &connector.scheme(), &connector.authority())?;
    let body = body.map_err(|never| match never {}).boxed_unsync();
    Ok(exchange::send(place, head, body, None).await?)
}

/// Reads the beginning of the body, as much as is checked.
async fn beginning(mut body: AnswerBody) -> Result<Vec<u8>, ProbeError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| ProbeError::Http(error.into()))?.into_data() else { continue };
        bytes.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - bytes.len())]);
        if bytes.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}
