//! Who sends a request, by a name and a password. What the server gets of them is for the route to say.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HeaderValue};

use super::credential::BasicAuth;
use super::denial::PasswordDenial;
use super::outcome::Failure;
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use crate::base::clock;
use crate::policy::basic::{BasicDenial, Credentials};

impl BasicAuth {
    /// Checks the name and the password of a request of `client`, and takes them out.
    ///
    /// # Errors
    /// Why they do not let in.
    pub(super) async fn authenticate(
        &self,
        request: &mut RoutedRequest,
        client: Option<IpAddr>,
        log: &mut RequestLog,
    ) -> Result<(), Failure> {
        let denied = |denial: BasicDenial| {
            // Quoted, a realm makes a value.
            let challenge = denial.challenge(&self.realm).and_then(|challenge| HeaderValue::try_from(challenge).ok());
            Failure::Password(PasswordDenial { denial, challenge })
        };
        let headers = &mut request.parts.headers;
        let credentials = Credentials::of(headers).map_err(denied)?;
        let verified = self.verifier.verify(&self.users, &credentials, client, clock::now()).await;
        let user = verified.map_err(denied)?;
        if !self.forward {
            headers.remove(AUTHORIZATION);
        }
        log.identity.get_or_insert_default().subject.get_or_insert(user);
        Ok(())
    }
}
