//! Tokens given keys and the time: what is taken, and all that is not.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::denial::Flaw;
use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A token whose header and claims are these texts, signed by `sign`.
fn signed(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", base64(header), base64(claims));
    let signature = base64(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hs256(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

/// A token by the secret with these claims.
fn of(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), hs256(SECRET))
}

fn good() -> Value {
    json!({ "sub": "ann", "exp": NOW.as_secs() + 60, "iss": "https://id.example/", "aud": "chat", "scope": "a chat:write" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn rules() -> JwtRules {
    JwtRules {
        algorithms: vec![Algorithm::Hs256],
        issuers: vec!["https://id.example/".into(), "other".into()],
        audiences: vec!["chat".into()],
        leeway: Duration::ZERO,
        require: vec![],
    }
}

fn secret() -> KeySet {
    KeySet::new(vec![Key::secret(SECRET).unwrap()])
}

fn judge(token: &str) -> Result<VerifiedToken, TokenDenial> {
    rules().judge(token, &secret(), NOW)
}

fn flaw(flaw: Flaw) -> Result<VerifiedToken, TokenDenial> {
    Err(TokenDenial::Flawed(flaw))
}

#[test]
fn a_good_token_lets_in_until_it_expires() {
    let verified = judge(&of(&good())).unwrap();
    assert_eq!((verified.subject.as_deref(), verified.expires), (Some("ann"), NOW + Duration::from_secs(60)));
    let no_subject = judge(&of(&json!({ "exp": 1.9e9, "iss": "other", "aud": ["x", "chat"] }))).unwrap();
    assert_eq!((no_subject.subject, no_subject.expires), (None, Duration::from_secs(1_900_000_000)));
}

#[test]
fn each_claim_is_what_it_should_be_or_the_token_is_refused() {
    let (now, wrong) = (NOW.as_secs(), |name| flaw(Flaw::Type(name)));
    let missing = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    for (claims, judged) in [
        (with("exp", json!(now)), Err(TokenDenial::Expired(Duration::ZERO))),
        (with("exp", json!(now - 1)), Err(TokenDenial::Expired(Duration::from_secs(1)))),
        (with("exp", json!(0)), Err(TokenDenial::Expired(NOW))),
        (missing("exp"), flaw(Flaw::Endless)),
        (with("exp", json!("1900000000")), wrong("exp")),
        (with("exp", json!(-1)), wrong("exp")),
        (with("exp", json!(null)), wrong("exp")),
        (with("exp", json!([now + 60])), wrong("exp")),
        (with("nbf", json!(now + 1)), Err(TokenDenial::Early)),
        (with("nbf", json!("soon")), wrong("nbf")),
        (with("iss", json!("https://id.example")), Err(TokenDenial::Issuer)),
        (with("iss", json!(["https://id.example/"])), wrong("iss")),
        (missing("iss"), Err(TokenDenial::Issuer)),
        (with("aud", json!("chat2")), Err(TokenDenial::Audience)),
        (with("aud", json!([])), Err(TokenDenial::Audience)),
        (with("aud", json!(["chat", 7])), wrong("aud")),
        (with("aud", json!({ "chat": true })), wrong("aud")),
        (missing("aud"), Err(TokenDenial::Audience)),
        (with("sub", json!(7)), wrong("sub")),
        (with("sub", json!("x".repeat(256))), flaw(Flaw::Subject)),
    ] {
        assert_eq!(judge(&of(&claims)), judged, "{claims}");
    }
    for claims in [with("nbf", json!(now)), with("exp", json!(now as f64 + 0.5)), with("exp", json!(1e300))] {
        assert!(judge(&of(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn the_leeway_moves_both_ends() {
    let rules = JwtRules { leeway: Duration::from_secs(30), ..rules() };
    let judge = |name, at: i64| {
        let at = NOW.as_secs().checked_add_signed(at).unwrap();
        rules.judge(&of(&with(name, json!(at))), &secret(), NOW)
    };
    assert_eq!(judge("exp", -29).unwrap().expires, NOW + Duration::from_secs(1));
    assert_eq!(judge("exp", -31), Err(TokenDenial::Expired(Duration::from_secs(1))));
    assert!(judge("nbf", 30).is_ok());
    assert_eq!(judge("nbf", 31), Err(TokenDenial::Early));
}

#[test]
fn nobody_is_asked_who_is_not_named() {
    let rules = JwtRules { issuers: vec![], audiences: vec![], ..rules() };
    assert!(rules.judge(&of(&json!({ "exp": NOW.as_secs() + 1 })), &secret(), NOW).is_ok());
}

#[test]
fn what_is_required_is_claimed() {
    let claims = json!({ "exp": NOW.as_secs() + 1, "scope": "chat:read chat:write", "scp": ["a b", "c"], "tenant": "acme",
        "level": 3, "admin": true, "groups": ["x", "y"], "realm_access": { "roles": ["chat"] }, "https://a.example/b": "z",
        "realm_access.roles2": "whole", "nothing": null, "object": {} });
    let token = of(&claims);
    let judge = |name: &str, one_of: &[&str]| {
        let one_of = one_of.iter().map(|value| (*value).to_owned()).collect();
        let require = vec![RequiredClaim { name: name.to_owned(), one_of }];
        let rules = JwtRules { require, issuers: vec![], audiences: vec![], ..rules() };
        rules.judge(&token, &secret(), NOW)
    };
    for (name, one_of) in [
        ("scope", &["chat:write"][..]),
        ("scope", &["chat:write chat:read"]),
        ("scope", &["nothing", "chat:read"]),
        ("scp", &["b"]),
        ("scp", &["c a"]),
        ("tenant", &["globex", "acme"]),
        ("level", &["3"]),
        ("admin", &["true"]),
        ("groups", &["y"]),
        ("realm_access.roles", &["chat"]),
        ("https://a.example/b", &["z"]),
        ("realm_access.roles2", &["whole"]),
    ] {
        assert!(judge(name, one_of).is_ok(), "{name} {one_of:?}");
    }
    for (name, one_of, scope) in [
        ("scope", &["chat"][..], Some("chat")),
        ("scope", &["chat:write chat:admin"], Some("chat:write chat:admin")),
        ("scope", &["a", "b"], None),
        ("scope", &[""], Some("")),
        ("scope", &["\""], None),
        ("tenant", &["acm", "acmeX", "ACME"], None),
        ("tenant", &["a c m e"], None),
        ("groups", &["x y"], None),
        ("missing", &["x"], None),
        ("nothing", &["null"], None),
        ("object", &["{}"], None),
        ("realm_access", &["chat"], None),
        ("realm_access.roles.0", &["chat"], None),
    ] {
        let denied = TokenDenial::Claim { claim: name.into(), scope: scope.map(Into::into) };
        assert_eq!(judge(name, one_of), Err(denied), "{name} {one_of:?}");
    }
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let token = of(&good());
    let (head, rest) = token.split_once('.').unwrap();
    let header = |header: &str| signed(header, &good().to_string(), hs256(SECRET));
    for (token, judged) in [
        (String::new(), flaw(Flaw::Form)),
        ("a.b".into(), flaw(Flaw::Form)),
        ("a.b.c.d".into(), flaw(Flaw::Form)),
        ("a.b.c.d.e".into(), flaw(Flaw::Encrypted)),
        (format!("{token} "), flaw(Flaw::Form)),
        (format!("{token}="), flaw(Flaw::Form)),
        (format!("{token}\u{e9}"), flaw(Flaw::Form)),
        (format!("{}.{rest}", &head[1..]), flaw(Flaw::Header)),
        (format!("{head}.{}.", rest.split_once('.').unwrap().0), flaw(Flaw::Form)),
        (format!("{token}A"), Err(TokenDenial::Signature)),
        ("A".repeat(64 << 10), flaw(Flaw::Long)),
        (of(&with("x", json!("y".repeat(64 << 10)))), flaw(Flaw::Long)),
        (header("[]"), flaw(Flaw::Header)),
        (header(r#"{"typ":"JWT"}"#), flaw(Flaw::Header)),
        (header(r#"{"alg":7}"#), flaw(Flaw::Header)),
        (header(r#"{"alg":"HS256","kid":7}"#), flaw(Flaw::Header)),
        (header(r#"{"alg":"HS256","alg":"HS256"}"#), flaw(Flaw::Header)),
        (header(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#), flaw(Flaw::Critical)),
        (header(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#), flaw(Flaw::Critical)),
        (header(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(600))), flaw(Flaw::Header)),
        (header(r#"{"alg":"none"}"#), Err(TokenDenial::Algorithm(None))),
        (header(r#"{"alg":"None"}"#), Err(TokenDenial::Algorithm(None))),
        (header(r#"{"alg":"hs256"}"#), Err(TokenDenial::Algorithm(None))),
        (header(r#"{"alg":"HS512"}"#), Err(TokenDenial::Algorithm(Some("HS512")))),
        (signed(r#"{"alg":"none"}"#, &good().to_string(), |_| vec![]), Err(TokenDenial::Algorithm(None))),
    ] {
        assert_eq!(judge(&token), judged, "{token:.80}");
    }
    // Signed all right, and still nothing that can be read in one way.
    for claims in [
        "",
        "7",
        "[]",
        "{}{}",
        r#"{"exp":1900000000,"exp":1900000000}"#,
        r#"{"exp":1900000000,"aud":"chat","a\u0075d":"chat","iss":"other"}"#,
        r#"{"exp":1900000000,"x":{"a":1,"a":2}}"#,
        r#"{"exp":1900000000,}"#,
        r#"{"exp":1e999}"#,
    ] {
        let token = signed(r#"{"alg":"HS256"}"#, claims, hs256(SECRET));
        assert_eq!(judge(&token), flaw(Flaw::Claims), "{claims}");
    }
}

#[test]
fn a_token_that_was_changed_or_is_by_another_secret_is_refused() {
    let forged = signed(r#"{"alg":"HS256"}"#, &good().to_string(), hs256(b"another secret of at least 32 bytes!"));
    assert_eq!(judge(&forged), Err(TokenDenial::Signature));
    let (token, other) = (of(&good()), of(&with("sub", json!("bob"))));
    let [signature, claims] = [&token, &other].map(|token| token.rsplit_once('.').unwrap());
    assert_eq!(judge(&format!("{}.{}", claims.0, signature.1)), Err(TokenDenial::Signature));
    assert_eq!(judge(&token[..token.len() - 4]), Err(TokenDenial::Signature));
}

/// Key pairs of all kinds, and the set of their public keys.
struct Issuer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

impl Issuer {
    fn new() -> Issuer {
        Issuer {
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        }
    }

    fn jwks(&self) -> Value {
        let (point, rsa) = (self.ec.public_key().as_ref(), self.rsa.public_key());
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig", "x": base64(&point[1..33]), "y": base64(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(self.ed.public_key()) },
            { "kty": "RSA", "kid": "rsa", "key_ops": ["verify"], "n": base64(rsa.modulus().big_endian_without_leading_zero()),
              "e": base64(rsa.exponent().big_endian_without_leading_zero()) },
            { "kty": "oct", "kid": "secret", "alg": "HS256", "k": base64(SECRET) },
            { "kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB" },
            { "kty": "EC", "crv": "secp256k1", "kid": "coin", "x": "AA", "y": "AA" },
            { "kty": "new", "kid": "unheard" }, {},
        ] })
    }

    fn sign(&self, algorithm: &str, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({ "alg": algorithm });
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        signed(&header.to_string(), &claims.to_string(), |message| match algorithm {
            "ES256" => self.ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            "EdDSA" | "Ed25519" => self.ed.sign(message).as_ref().to_vec(),
            _ => {
                let padding: &dyn signature::RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        })
    }
}

fn public() -> JwtRules {
    use Algorithm::*;
    JwtRules { algorithms: vec![Es256, Es384, EdDsa, Rs256, Ps256], ..rules() }
}

#[test]
fn each_kind_of_key_verifies_its_own_tokens_and_no_others() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let keys = KeySet::from_json(issuer.jwks().to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 3, "those that are for something else are left out");
    let judge = |token: &str| public().judge(token, &keys, NOW);
    for (algorithm, kid) in [("ES256", "ec"), ("EdDSA", "ed"), ("Ed25519", "ed"), ("RS256", "rsa"), ("PS256", "rsa")] {
        assert!(judge(&issuer.sign(algorithm, Some(kid), &good())).is_ok(), "{algorithm}");
        assert!(judge(&issuer.sign(algorithm, None, &good())).is_ok(), "{algorithm} without a kid");
        assert_eq!(judge(&stranger.sign(algorithm, Some(kid), &good())), Err(TokenDenial::Signature), "{algorithm}");
        for kid in ["", "other", "../../dev/null", "' OR 1=1", "secret"] {
            let judged = judge(&issuer.sign(algorithm, Some(kid), &good()));
            assert_eq!(judged, Err(TokenDenial::UnknownKey), "{algorithm} {kid}");
        }
        // RSA with two paddings is one key.
        let crossed = if kid == "rsa" { "ec" } else { "rsa" };
        assert_eq!(judge(&issuer.sign(algorithm, Some(crossed), &good())), Err(TokenDenial::UnknownKey));
        let none = JwtRules { algorithms: vec![Algorithm::Es384], ..public() };
        assert!(matches!(
            none.judge(&issuer.sign(algorithm, Some(kid), &good()), &keys, NOW),
            Err(TokenDenial::Algorithm(Some(_)))
        ));
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let issuer = Issuer::new();
    let jwks = issuer.jwks().to_string();
    let keys = KeySet::from_json(jwks.as_bytes()).unwrap();
    // Even with rules that the configuration refuses.
    let rules = JwtRules { algorithms: vec![Algorithm::Hs256, Algorithm::Rs256], ..rules() };
    let der = issuer.rsa.public_key().as_der().unwrap().as_ref().to_vec();
    for secret in
        [jwks.as_bytes(), issuer.ec.public_key().as_ref(), issuer.ed.public_key().as_ref(), &der, SECRET, b"\0"]
    {
        for kid in ["rsa", "ec", "ed", "secret"] {
            let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
            let forged = signed(&header, &good().to_string(), hs256(secret));
            assert_eq!(rules.judge(&forged, &keys, NOW), Err(TokenDenial::UnknownKey));
        }
    }
    // And a token that brings its own key along is by nobody.
    let stranger = Issuer::new();
    let jwk = &stranger.jwks()["keys"][0];
    let header = json!({ "alg": "ES256", "kid": "ec", "jwk": jwk, "jku": "http://evil.example/", "x5u": "http://evil.example/" });
    let brought = signed(&header.to_string(), &good().to_string(), |message| {
        stranger.ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    });
    assert_eq!(public().judge(&brought, &keys, NOW), Err(TokenDenial::Signature));
}

#[test]
fn a_key_is_for_its_own_algorithm_and_few_are_tried_without_a_name() {
    let issuer = Issuer::new();
    let mut key = issuer.jwks()["keys"][2].clone();
    key["alg"] = json!("PS256");
    let keys = KeySet::from_json(key.to_string().as_bytes()).unwrap();
    assert!(public().judge(&issuer.sign("PS256", Some("rsa"), &good()), &keys, NOW).is_ok());
    let other = public().judge(&issuer.sign("RS256", Some("rsa"), &good()), &keys, NOW);
    assert_eq!(other, Err(TokenDenial::UnknownKey));
    let mut many: Vec<Value> = (0..9).map(|_| issuer.jwks()["keys"][1].clone()).collect();
    many.iter_mut().enumerate().for_each(|(index, key)| key["kid"] = json!(format!("k{index}")));
    let keys = KeySet::from_json(json!({ "keys": many }).to_string().as_bytes()).unwrap();
    assert_eq!(public().judge(&issuer.sign("EdDSA", None, &good()), &keys, NOW), Err(TokenDenial::Unnamed));
    assert!(public().judge(&issuer.sign("EdDSA", Some("k3"), &good()), &keys, NOW).is_ok());
    assert_eq!(public().judge(&issuer.sign("EdDSA", None, &good()), &KeySet::default(), NOW), Err(TokenDenial::NoKeys));
}

#[test]
fn a_set_of_keys_is_bounded_and_says_why_it_is_none() {
    let read = |text: &str| KeySet::from_json(text.as_bytes()).map(|keys| keys.len());
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64([7; 32]) });
    let set = |count: usize| json!({ "keys": vec![key.clone(); count] }).to_string();
    assert_eq!((read(&set(1)), read(&key.to_string()), read(&set(100))), (Ok(1), Ok(1), Ok(100)));
    assert_eq!(read(&set(101)), Err(KeysError::Many));
    assert_eq!(read(&set(10_000)), Err(KeysError::Large));
    for (text, words) in [
        ("", "no JWK Set"),
        ("<html>", "no JWK Set"),
        ("{}", "neither `keys` nor `kty`"),
        (r#"{"keys":[]}"#, "the list is empty"),
        (r#"{"keys":{}}"#, "no JWK Set"),
        (r#"{"kty":"oct","k":"AAAA"}"#, "write `secret`"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "2048 to 8192 bits"),
        (r#"{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}"#, "the length of its curve"),
        (r#"{"kty":"OKP","crv":"Ed25519","x":"AQ"}"#, "32 bytes"),
        (r#"{"kty":"OKP","crv":"Ed25519","x":"!"}"#, "not base64url"),
        (r#"{"kty":"EC","crv":"P-521","x":"AQ","y":"AQ"}"#, "a curve that is not used"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn nothing_that_is_told_has_anything_of_the_token() {
    let token = signed(r#"{"alg":"HS256","kid":"KIDKID"}"#, &with("sub", json!("SUBSUB")).to_string(), hs256(b"wrong"));
    let denied = judge(&token).unwrap_err();
    for text in [denied.to_string(), denied.hint().to_owned(), denied.challenge().unwrap(), format!("{denied:?}")] {
        assert!(!text.contains("KIDKID") && !text.contains("SUBSUB") && !text.contains(&token[..20]), "{text}");
    }
    let secret = format!("{:?}", super::tests::secret());
    assert!(!secret.contains("0123") && !secret.contains("48, 49"), "{secret}");
}

#[test]
fn a_challenge_says_what_rfc_6750_wants() {
    let challenge = |denial: TokenDenial| denial.challenge();
    assert_eq!(challenge(TokenDenial::Missing("x".into())).as_deref(), Some("Bearer"));
    assert_eq!(challenge(TokenDenial::NoKeys), None);
    assert_eq!(
        challenge(TokenDenial::Expired(Duration::ZERO)).as_deref(),
        Some(r#"Bearer error="invalid_token", error_description="the token has expired""#)
    );
    let scope = TokenDenial::Claim { claim: "scope".into(), scope: Some("a b".into()) };
    assert!(challenge(scope).unwrap().ends_with(r#", scope="a b""#));
}

#[test]
fn claims_are_written_as_texts() {
    let claims = json!({ "exp": NOW.as_secs() + 1, "a": "x\r\ny", "n": 7, "f": 0.5, "b": false, "l": ["x", 1, null, ["y"], "a,b"],
        "o": { "i": "inner" }, "z": null });
    let rules = JwtRules { issuers: vec![], audiences: vec![], ..rules() };
    let claims = rules.judge(&of(&claims), &secret(), NOW).unwrap().claims;
    for (name, text) in [
        ("a", "x\r\ny"),
        ("n", "7"),
        ("f", "0.5"),
        ("b", "false"),
        ("l", "x,1,a%2Cb"),
        ("o.i", "inner"),
        ("o", ""),
        ("z", ""),
        ("q", ""),
    ] {
        let mut out = String::new();
        claims.write(name, &mut out);
        assert_eq!(out, text, "{name}");
    }
}

proptest! {
    #[test]
    fn no_text_is_a_token_and_none_makes_it_panic(text in "[A-Za-z0-9_.-]{0,200}|\\PC{0,60}", claims in "\\PC{0,60}", header in "\\PC{0,60}") {
        prop_assert!(judge(&text).is_err());
        prop_assert!(judge(&signed(&header, &claims, hs256(SECRET))).is_err());
        let token = signed(r#"{"alg":"HS256"}"#, &claims, hs256(SECRET));
        prop_assert!(judge(&token).is_err());
        let _ = KeySet::from_json(claims.as_bytes());
    }

    #[test]
    fn a_token_lets_in_exactly_while_it_is_valid(exp in 0_u64..200, nbf in 0_u64..200, leeway in 0_u64..50, now in 0_u64..250) {
        let rules = JwtRules { leeway: Duration::from_secs(leeway), ..rules() };
        let mut claims = with("exp", json!(exp));
        claims["nbf"] = json!(nbf);
        let judged = rules.judge(&of(&claims), &secret(), Duration::from_secs(now));
        prop_assert_eq!(judged.is_ok(), now < exp + leeway && now + leeway >= nbf);
    }
}
