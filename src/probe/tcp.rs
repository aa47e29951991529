//! The TCP probe: connects, with TLS where the endpoint speaks TLS. It shows nothing of the application behind.

use tokio::time::Instant;

use super::ProbeError;
use crate::upstream::connect::Connector;

/// Connects, and disconnects.
///
/// # Errors
/// When there is no connection by `deadline`.
pub async fn run(connector: &Connector, deadline: Instant) -> Result<(), ProbeError> {
    connector.connect(deadline).await?;
    Ok(())
}
