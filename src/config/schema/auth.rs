//! Who may use a route: by tokens, and the keys that verify them, or by what a service says.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::schema::basic_auth::BasicAuthConfig;
use crate::config::schema::client_tls::ClientTls;
use crate::config::schema::forward_auth::ForwardAuthConfig;
use crate::config::schema::upstream_lost::SentCode;
use crate::config::value::TimeSpan;
use crate::config::value::http_url::HttpUrl;
use crate::config::value::secret::SigningSecret;
use crate::policy::jwt::{Algorithm, TokenPlace};
use crate::ws::close::CloseCode;

/// The code of a Close when a credential has expired: of the range for applications, after HTTP's 401.
const EXPIRED: CloseCode = CloseCode(4401);

/// Who may use a route.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Lets in who has a valid JSON Web Token (RFC 7519). Default: nobody is asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,

    /// Lets in who has a name and a password (RFC 7617). With `jwt` beside it, both are needed. Default: nobody is asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuthConfig>,

    /// Asks a service of yours about each request, as nginx `auth_request`, Traefik `ForwardAuth` and Caddy `forward_auth` do,
    /// after `jwt` and `basic`, if they are there too. Default: none is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardAuthConfig>,
}

/// Which tokens let in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The keys that verify tokens: one of `url`, `file`, `secret` and `secret_file`. Required.
    pub keys: KeysConfig,

    /// How tokens may be signed: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384` and `EdDSA` with
    /// public keys (`url`, `file`), `HS256`, `HS384` and `HS512` with a secret. Required: there is no default, since the list
    /// is what keeps a token from choosing.
    pub algorithms: Vec<Algorithm>,

    /// The issuer (`iss`) that a token must have, exactly; or a list, of which it must have one. Default: any, since the
    /// keys say who signed.
    #[serde(default)]
    pub issuer: Option<OneOrMore>,

    /// The audience (`aud`) that a token must be for; or a list, of which it must be for one. Default: any; then a token that
    /// the same issuer has given for another service lets in here too, and wsluice warns of it where `keys` is a `url`.
    #[serde(default)]
    pub audience: Option<OneOrMore>,

    /// How far the clocks of the issuer and of this machine may be apart: a token is valid this much earlier than its `nbf`
    /// and later than its `exp`. Default: 30s, what clocks that are set by NTP never reach.
    #[serde(default = "leeway")]
    pub leeway: TimeSpan,

    /// Where the token is: `authorization` (`Authorization: Bearer …`), `{ query: NAME }`, `{ cookie: NAME }` and
    /// `{ subprotocol: NAME }`; the first place of this list that has one counts. With `{ subprotocol: bearer }` it is what
    /// follows `bearer` in `new WebSocket(url, ["chat", "bearer", token])`, or `bearer.` in one entry; the server sees the
    /// offer without it. Default: `[authorization]`.
    #[serde(default = "from_authorization")]
    pub from: Vec<TokenPlace>,

    /// Claims that a token must have, by name: `scope: "chat:read chat:write"` (all of these words, also for `scp`),
    /// `tenant: acme` (equal, or in the list that the claim is), `tenant: [acme, globex]` (one of them). `a.b` is the claim `b`
    /// inside `a`. A token without them gets 403. Default: none.
    #[serde(default)]
    pub require: BTreeMap<String, OneOrMore>,

    /// Whether the server gets the token as well: where it was, or as `Authorization: Bearer …` if it was an entry of the
    /// offer. Tokens in the other places of `from` never go on. Default: false, since what a server logs or passes on is out
    /// of your hands; give it claims (`headers: { request: { set: { X-User: "{claims.sub}" } } }`).
    #[serde(default)]
    pub forward: bool,

    /// What happens to a session when its token expires: `{ close: CODE }` closes it with this code at `exp` and `leeway`, in
    /// the next pause, at most three seconds later; `keep` leaves it. The admin API can move the time. Default:
    /// `{ close: 4401 }`.
    #[serde(default)]
    pub on_expiry: OnExpiry,
}

fn leeway() -> TimeSpan {
    TimeSpan::from_secs(30)
}

fn from_authorization() -> Vec<TokenPlace> {
    vec![TokenPlace::Authorization]
}

/// Where the keys are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// A JWK Set (RFC 7517) at an `https://` or `http://` URL, such as the `jwks_uri` of an OpenID provider. It is fetched at
    /// the start, again before `Cache-Control: max-age` is over (10 minutes without one, at least 30 seconds, at most a day),
    /// and when a token names a key that is not there. While it cannot be fetched, the last keys stay. At most 512 KiB and
    /// 100 keys; redirects are not followed. Default: none.
    pub url: Option<HttpUrl>,

    /// A file with public keys: PEM, a JWK or a JWK Set; read again when it changes. Default: none.
    pub file: Option<PathBuf>,

    /// A shared secret for HMAC, at least 32 characters (48 for HS384, 64 for HS512), such as `openssl rand -hex 32` prints;
    /// best as `${NAME}`. Default: none.
    pub secret: Option<SigningSecret>,

    /// A file with such secrets, one a line, all of them valid, in place of `secret`. Default: none.
    pub secret_file: Option<PathBuf>,

    /// TLS towards an `https://` URL. Default: the certificate is verified for the host of the URL against the system's
    /// authorities.
    pub tls: Option<Box<ClientTls>>,
}

/// What happens to a session whose credential has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// Closes it with this code: any that may be sent.
    Close(SentCode),
    /// Leaves it.
    Keep,
}

impl Default for OnExpiry {
    fn default() -> OnExpiry {
        OnExpiry::Close(SentCode(EXPIRED))
    }
}

impl OnExpiry {
    /// Returns the code with which a session is closed whose time is over, be it by the token or by the admin API.
    pub fn code(self) -> CloseCode {
        match self {
            OnExpiry::Close(code) => code.0,
            OnExpiry::Keep => EXPIRED,
        }
    }
}

impl AuthConfig {
    /// Returns the files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let keys = self.jwt.as_ref().map(|jwt| &jwt.keys);
        let files = keys.into_iter().flat_map(|keys| [&keys.file, &keys.secret_file]).flatten().map(PathBuf::as_path);
        let of_forward = self.forward.as_ref().and_then(|forward| forward.tls.as_ref());
        let tls = keys.and_then(|keys| keys.tls.as_ref()).into_iter().chain(of_forward);
        let users = self.basic.as_ref().map(|basic| basic.file.as_path());
        files.chain(users).chain(tls.flat_map(|tls| tls.files()))
    }

    /// Returns what becomes of a session whose time is over.
    pub fn on_expiry(&self) -> OnExpiry {
        self.jwt.as_ref().map_or_else(OnExpiry::default, |jwt| jwt.on_expiry)
    }
}

/// One text, or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMore(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts<T>(PhantomData<T>);

        impl<'de> Visitor<'de> for Texts<()> {
            type Value = OneOrMore;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_owned()]))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<OneOrMore, E> {
                self.visit_str(if value { "true" } else { "false" })
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<OneOrMore, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<OneOrMore, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
                let mut texts = vec![];
                while let Some(OneOrMore(text)) = list.next_element()? {
                    texts.extend(text);
                }
                Ok(OneOrMore(texts))
            }
        }

        from.deserialize_any(Texts(PhantomData))
    }
}

impl Serialize for OneOrMore {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => to.serialize_str(one),
            all => to.collect_seq(all),
        }
    }
}

impl JsonSchema for OneOrMore {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text, or a list of texts.",
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                { "type": "array", "items": { "type": ["string", "number", "boolean"] }, "minItems": 1 },
            ],
        })
    }
}
