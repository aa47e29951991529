//! Networks of clients that may come, and of those that may not.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::value::BadValue;
use crate::header::network;

/// Which addresses may come: networks such as `10.0.0.0/8` and `fd00::/8`, and single addresses. `deny` wins over `allow`,
/// whatever the order and however narrow a network is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddressesConfig {
    /// Who may come; if it is given, nobody else may. Default: everybody.
    #[serde(deserialize_with = "networks_or_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub allow: Option<Vec<IpNet>>,

    /// Who may not, also if `allow` names them. Default: nobody.
    #[serde(deserialize_with = "networks_or_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub deny: Option<Vec<IpNet>>,
}

/// Reads networks, and single addresses as networks of one.
pub(super) fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);

    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            network::parse(&text).map(Network).ok_or_else(|| {
                let help = "write a network such as `10.0.0.0/8` or `fd00::/8`, or an address";
                BadValue::new(format!("`{text}` is not a network"), help).into_serde()
            })
        }
    }

    Ok(Vec::<Network>::deserialize(from)?.into_iter().map(|network| network.0).collect())
}

fn networks_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    networks(from).map(Some)
}
