//! What a route asks of a request, and the table that finds the first route whose questions are all answered.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{FieldName, HostPattern, PathPattern, Subprotocol, ValuePattern};

/// Which requests a route is for. All that is given must hold; what is left out is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// One of these hosts. None given: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The path, without the query. Not given: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPattern>,
    /// All of these headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<FieldName, ValuePattern>,
    /// All of these parameters of the query, compared decoded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, ValuePattern>,
    /// At least one of these subprotocols is offered. None given: any or no offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subprotocols: Vec<Subprotocol>,
}
