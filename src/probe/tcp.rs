//! Whether an endpoint takes connections, with TLS where it speaks TLS. It says nothing of the application behind.

use tokio::time::Instant;

use super::ProbeError;
use crate::upstream::connect::Connector;

/// Connects, and hangs up.
///
/// # Errors
/// When there is no connection by `deadline`.
pub async fn run(connector: &Connector, deadline: Instant) -> Result<(), ProbeError> {
    connector.connect(deadline).await?;
    Ok(())
}
